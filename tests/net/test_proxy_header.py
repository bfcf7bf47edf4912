"""What is a header of the PROXY protocol, what is none; whose connection it is then."""

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.net.base import Endpoint
from elemta.net.proxy import (
    MAX_BLOCK_OCTETS,
    MAX_HEADER_OCTETS,
    MAX_LINE_OCTETS,
    BadProxyHeader,
    ProxiedEnds,
    ProxyHeader,
    crc32c,
    ends_behind,
    parse_header,
)
from tests.net.proxy_headers import (
    CHECKSUM,
    DESTINATION,
    LOCAL,
    NOOP,
    PROXY,
    SIGNATURE,
    SOURCE,
    TCP4,
    TCP6,
    UDP4,
    UDP6,
    UNIX,
    UNIX_DATAGRAM,
    UNKNOWN,
    addresses,
    binary,
    field,
    line,
    with_checksum,
)

KNOWN = ProxiedEnds(Endpoint(SOURCE, 40_000), Endpoint(DESTINATION, 25))
V6 = ("2001:db8::7", "2001:db8::25")
KNOWN_V6 = ProxiedEnds(Endpoint(V6[0], 40_000), Endpoint(V6[1], 25))
MAPPED = ("::ffff:198.51.100.7", "::ffff:203.0.113.25")
WIDEST = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
UNIX_BLOCK = b"/run/client".ljust(108, b"\0") + b"/run/proxy".ljust(108, b"\0")

GOOD = [
    (line(), KNOWN),
    (line(*V6), KNOWN_V6),
    (line("2001:DB8:0:0:0:0:0:7", V6[1]), KNOWN_V6),
    (line(*MAPPED), KNOWN),
    (line(WIDEST, WIDEST, ports="65535 65535"), ProxiedEnds(Endpoint(WIDEST, 65_535), Endpoint(WIDEST, 65_535))),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN \0\r\xff anything, even a CR or LF\n alone\r\n", None),
    (f"PROXY UNKNOWN {WIDEST} {WIDEST} 65535 65535\r\n".encode(), None),
    (binary(addresses()), KNOWN),
    (binary(addresses(*V6), family=TCP6), KNOWN_V6),
    (binary(addresses(*MAPPED), family=TCP6), KNOWN),
    (binary(addresses() + field(NOOP, b"") + field(0xEA, b"\x01" * 300)), KNOWN),
    (binary(addresses() + field(NOOP, bytes(MAX_BLOCK_OCTETS - 15))), KNOWN),
    (with_checksum(addresses()), KNOWN),
    (with_checksum(addresses(*V6), family=TCP6, behind=field(NOOP, b"xyz")), KNOWN_V6),
    (with_checksum(UNIX_BLOCK, family=UNIX), None),
    (binary(UNIX_BLOCK, family=UNIX), None),
    (binary(family=UNKNOWN), None),
    (binary(b"what an unknown family means by it", family=UNKNOWN), None),
    (binary(command=LOCAL, family=UNKNOWN), None),
    (binary(addresses(), command=LOCAL), None),  # the real ends count, whatever is told
    (binary(b"\x01", command=LOCAL, family=0xFF), None),
]

BAD = [
    # neither version
    b"EHLO client.example\r\n",
    b"\x16\x03\x01\x02\x00\x01",  # a ClientHello
    b"proxy TCP4 198.51.100.7 203.0.113.25 40000 25\r\n",
    b"PROXY\tTCP4 198.51.100.7 203.0.113.25 40000 25\r\n",
    b" " + line(),
    b"\0",
    b"\r\n\r\n\r\n",
    SIGNATURE[:-1] + b"\r",
    # version 1
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY tcp4 198.51.100.7 203.0.113.25 40000 25\r\n",
    b"PROXY TCP5 198.51.100.7 203.0.113.25 40000 25\r\n",
    b"PROXY UDP4 198.51.100.7 203.0.113.25 40000 25\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY  TCP4 198.51.100.7 203.0.113.25 40000 25\r\n",
    b"PROXY TCP4  198.51.100.7 203.0.113.25 40000 25\r\n",
    b"PROXY TCP4 198.51.100.7 203.0.113.25 40000\r\n",
    b"PROXY TCP4 198.51.100.7 203.0.113.25 40000 25 \r\n",
    b"PROXY TCP4 198.51.100.7 203.0.113.25 40000 25 25\r\n",
    b"PROXY TCP4 198.51.100.7 203.0.113.25 40000 25\n\r\n",
    b"PROXY TCP4 198.51.100.7 203.0.113.25 40000 25\r\r\n",
    b"PROXY TCP4 198.51.100.7\t203.0.113.25 40000 25\r\n",
    b"PROXY TCP4 198.51.100.7\0 203.0.113.25 40000 25\r\n",
    b"PROXY TCP4 198.51.100.007 203.0.113.25 40000 25\r\n",  # octal, for some
    b"PROXY TCP4 198.51.100 203.0.113.25 40000 25\r\n",
    b"PROXY TCP4 198.51.100.256 203.0.113.25 40000 25\r\n",
    b"PROXY TCP4 0xc6336407 203.0.113.25 40000 25\r\n",
    "PROXY TCP4 198.51.100.٧ 203.0.113.25 40000 25\r\n".encode(),
    b"PROXY TCP4 2001:db8::7 2001:db8::25 40000 25\r\n",
    b"PROXY TCP4 198.51.100.7 2001:db8::25 40000 25\r\n",
    b"PROXY TCP6 198.51.100.7 203.0.113.25 40000 25\r\n",
    b"PROXY TCP6 fe80::1%eth0 2001:db8::25 40000 25\r\n",
    b"PROXY TCP6 2001:db8::7::1 2001:db8::25 40000 25\r\n",
    b"PROXY TCP6 [2001:db8::7] 2001:db8::25 40000 25\r\n",
    *(line(ports=ports) for ports in ("0 25", "40000 0", "65536 25", "-1 25", "+1 25", "4_0 25", "040 25", "a 25")),
    line(ports="100000 25"),
    line(ports="\N{ARABIC-INDIC DIGIT FOUR}0 25"),
    b"PROXY UNKNOWN".ljust(MAX_LINE_OCTETS - 1) + b"\r\n",
    b"PROXY TCP4 ".ljust(MAX_LINE_OCTETS, b"1"),
    # version 2
    binary(addresses(), command=0x11),
    binary(addresses(), command=0x31),
    binary(addresses(), command=0x22),
    binary(addresses(), command=0x2F),
    binary(command=0x22, family=UNKNOWN),
    *(binary(addresses(), family=family) for family in (UDP4, 0x10, 0x13, 0x01, 0x41, 0xFF)),
    binary(addresses(*V6), family=UDP6),
    binary(UNIX_BLOCK, family=UNIX_DATAGRAM),
    binary(addresses()[:-1]),
    binary(),
    binary(addresses(), family=TCP6),
    binary(UNIX_BLOCK[:-1], family=UNIX),
    binary(addresses(port=0)),
    binary(addresses()[:-2] + b"\0\0"),
    binary(addresses() + b"\x04"),
    binary(addresses() + b"\x04\0"),
    binary(addresses() + field(NOOP, b"abc")[:-1]),
    binary(addresses() + b"\x04\xff\xff"),
    binary(addresses() + field(CHECKSUM, bytes(4))),
    binary(addresses() + field(CHECKSUM, b"")),
    binary(addresses() + field(CHECKSUM, bytes(5))),
    with_checksum(addresses())[:-1] + b"\xff",
    with_checksum(addresses()).replace(b"\xc6\x33", b"\xc6\x34"),  # the address is not what was summed
    with_checksum(UNIX_BLOCK, family=UNIX).replace(b"client", b"others"),
    # not whole, and known to be too long
    SIGNATURE + struct.pack("!BBH", PROXY, TCP4, MAX_BLOCK_OCTETS + 1),
    SIGNATURE + struct.pack("!BBH", LOCAL, UNKNOWN, 0xFFFF),
]


def outcome(heard: bytes) -> ProxyHeader | str | None:
    """The header, what is wrong with it, or None; nothing else may happen."""
    try:
        return parse_header(heard)
    except BadProxyHeader as error:
        return str(error)


def outcome_in_pieces(heard: bytes, cuts: list[int]) -> ProxyHeader | str | None:
    """The first outcome of octets that come in pieces."""
    for end in [*sorted({cut for cut in cuts if cut < len(heard)}), len(heard)]:
        found = outcome(heard[:end])
        if found is not None:
            return found
    return None


@pytest.mark.parametrize(("header", "ends"), GOOD)
@pytest.mark.parametrize("rest", [b"", b"EHLO client.example\r\n", b"\0" * 20_000, b"\r\n"])
def test_a_header_ends_where_it_ends(header: bytes, ends: ProxiedEnds | None, rest: bytes) -> None:
    assert parse_header(header + rest) == ProxyHeader(len(header), ends)
    assert parse_header(bytearray(header + rest)) == ProxyHeader(len(header), ends)


@pytest.mark.parametrize("header", [header for header, _ in GOOD])
def test_a_header_that_is_not_whole_is_waited_for(header: bytes) -> None:
    assert {parse_header(header[:end]) for end in range(len(header))} == {None}


@pytest.mark.parametrize("octets", BAD)
def test_what_is_no_header(octets: bytes) -> None:
    with pytest.raises(BadProxyHeader) as caught:
        parse_header(octets)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    with pytest.raises(BadProxyHeader):
        parse_header(octets + b"EHLO client.example\r\n")


def test_no_table_of_this_file_repeats_itself() -> None:
    assert len(set(BAD)) == len(BAD)
    assert not set(BAD) & {header for header, _ in GOOD}


def test_what_cannot_become_a_header_is_seen_at_once() -> None:
    for octet in range(256):
        assert (outcome(bytes([octet])) is None) is (octet in b"P\r")


# ---- properties ----------------------------------------------------------------------------------

ports = st.integers(1, 65_535)
ipv4, ipv6 = st.ip_addresses(v=4), st.ip_addresses(v=6)
kinds = st.integers(0, 255).filter(lambda kind: kind != CHECKSUM)
fields = st.lists(st.builds(field, kinds, st.binary(max_size=40)), max_size=5).map(b"".join)


@st.composite
def headers(draw: st.DrawFn) -> tuple[bytes, ProxiedEnds]:
    """A header in either version, with what it says."""
    family, kind = draw(st.sampled_from([(TCP4, ipv4), (TCP6, ipv6)]))
    (source, source_port), (destination, destination_port) = draw(st.tuples(*[st.tuples(kind, ports)] * 2))
    ends = ProxiedEnds(_end(source, source_port), _end(destination, destination_port))
    if draw(st.booleans()):
        return line(str(source), str(destination), ports=f"{source_port} {destination_port}"), ends
    block = source.packed + destination.packed + struct.pack("!HH", source_port, destination_port)
    more = draw(fields)
    if draw(st.booleans()):
        return binary(block + more, family=family), ends
    return with_checksum(block, family=family, behind=more), ends


def _end(address: IPv4Address | IPv6Address, port: int) -> Endpoint:
    return Endpoint(str(getattr(address, "ipv4_mapped", None) or address), port)


hostile = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(lambda octets: b"PROXY " + octets),
    st.binary(max_size=200).map(lambda octets: b"PROXY TCP4 " + octets + b"\r\n"),
    st.lists(
        st.sampled_from([b"TCP4", b"TCP6", b"UNKNOWN", b"1.2.3.4", b"::1", b"25", b"0", b"\r", b"%"]), max_size=9
    ).map(lambda words: b"PROXY " + b" ".join(words) + b"\r\n"),
    st.builds(
        lambda command, family, length, block: SIGNATURE + struct.pack("!BBH", command, family, length) + block,
        st.sampled_from([LOCAL, PROXY, 0x00, 0xFF]),
        st.sampled_from([UNKNOWN, TCP4, TCP6, UNIX, UDP4, 0xFF]),
        st.integers(0, 300) | st.integers(0, 0xFFFF),
        st.binary(max_size=300),
    ),
)
cuts = st.lists(st.integers(0, 400), max_size=20)


@given(headers(), st.binary(max_size=50))
def test_what_is_written_is_read(written: tuple[bytes, ProxiedEnds], rest: bytes) -> None:
    header, ends = written
    assert parse_header(header + rest) == ProxyHeader(len(header), ends)


@given(headers(), st.binary(max_size=50), cuts)
def test_where_a_header_is_split_changes_nothing(written: tuple[bytes, object], rest: bytes, cuts: list[int]) -> None:
    heard = written[0] + rest
    assert outcome_in_pieces(heard, cuts) == outcome(heard)


@given(hostile, cuts)
def test_hostile_octets_are_refused_wherever_they_are_split(heard: bytes, cuts: list[int]) -> None:
    assert outcome_in_pieces(heard, cuts) == outcome(heard)
    assert outcome_in_pieces(heard, list(range(len(heard)))) == outcome(heard)


@given(headers(), st.data())
def test_a_damaged_header_is_a_header_or_refused(written: tuple[bytes, object], data: st.DataObject) -> None:
    header = bytearray(written[0])
    header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    outcome(bytes(header))


@given(hostile)
def test_nobody_needs_to_be_heard_longer_than_the_longest_header(heard: bytes) -> None:
    assert outcome(heard.ljust(MAX_HEADER_OCTETS, b"x")) is not None


# ---- the checksum --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("octets", "checksum"),
    [  # RFC 3720 §B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_the_checksum(octets: bytes, checksum: int) -> None:
    assert crc32c(octets) == checksum


@given(fields, st.integers(16, 16 + 36 - 1), st.integers(1, 255))
def test_a_sum_finds_every_damaged_octet_of_an_address(more: bytes, at: int, change: int) -> None:
    header = with_checksum(addresses(*V6), family=TCP6, behind=more)
    damaged = header[:at] + bytes([header[at] ^ change]) + header[at + 1 :]
    assert outcome(damaged) == "its checksum is wrong"


# ---- whose connection it is ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "local", "source", "believed"),
    [
        ("192.0.2.9", "192.0.2.25", SOURCE, True),
        ("127.0.0.1", "127.0.0.1", SOURCE, True),
        ("127.0.0.1", "127.0.0.1", "127.0.0.2", True),
        ("::1", "::1", "127.0.0.1", True),
        ("", "/run/elemta", "127.0.0.1", True),
        ("192.0.2.9", "192.0.2.25", "127.0.0.1", False),
        ("192.0.2.9", "192.0.2.25", "::1", False),
        ("127.0.0.1", "192.0.2.25", "127.0.0.1", False),
        ("192.0.2.9", "127.0.0.1", "127.0.0.1", False),
    ],
)
def test_loopback_is_a_machines_own(peer: str, local: str, source: str, believed: bool) -> None:
    header = ProxyHeader(1, ProxiedEnds(Endpoint(source, 1), Endpoint(DESTINATION, 25)))
    real = ProxiedEnds(Endpoint(peer, 2), Endpoint(local, 26))
    assert ends_behind(header, peer=real.source, local=real.destination) == (header.ends if believed else real)


def test_a_proxy_that_names_nobody_is_the_client() -> None:
    real = ProxiedEnds(Endpoint("127.0.0.1", 2), Endpoint("127.0.0.1", 26))
    assert ends_behind(ProxyHeader(1), peer=real.source, local=real.destination) == real
