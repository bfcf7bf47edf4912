"""The kinds of values."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.config import kinds
from elemta.config.addresses import (
    ListenAddress,
    parse_domain,
    parse_host,
    parse_listen_address,
    parse_mailbox,
    parse_network,
)
from elemta.config.kinds import Amount, Choice, Duration, Form, Kind, PortNumber, Unfit, Whole
from elemta.mail.envelope import Priority


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":2525", ListenAddress("", 2525)),
        ("127.0.0.1:0", ListenAddress("127.0.0.1", 0)),
        ("[::1]:25", ListenAddress("::1", 25)),
        ("[2001:DB8:0:0::1]:25", ListenAddress("2001:db8::1", 25)),
        ("localhost:2525", ListenAddress("localhost", 2525)),
        ("unix:/run/elemta.sock", ListenAddress(path="/run/elemta.sock")),
    ],
)
def test_a_listening_address_is_read(text: str, address: ListenAddress) -> None:
    assert parse_listen_address(text) == address
    assert parse_listen_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("2525", 'write ":2525" for this port on every address'),
        ("::1:2525", 'write an IPv6 address in brackets: "[::1]:2525"'),
        ("127.0.0.1", "a port must follow the host"),
        (":65536", "a port is a number from 0 to 65535"),
        ("unix:queue.sock", 'the path of a unix socket begins with "/"'),
        (f"unix:/{'a' * 107}", "the path of a unix socket has at most 107 octets"),
        ("no_name:25", "a domain name is letters, digits and hyphens between dots"),
    ],
)
def test_a_bad_listening_address_gets_advice(text: str, advice: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_listen_address(text)
    assert str(caught.value) == advice


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/s", True),
        (":1", False),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example.com:1", False),
    ],
)
def test_only_this_machine_reaches_loopback(text: str, loopback: bool) -> None:
    assert parse_listen_address(text).is_loopback is loopback


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("127.0.0.1", "127.0.0.1/32"),
        ("::1", "::1/128"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("::/64", "::/64"),
    ],
)
def test_a_network_is_read(text: str, network: str) -> None:
    assert str(parse_network(text)) == network


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("10.0.0.1/8", 'bits are set beyond the prefix; write "10.0.0.0/8" for the network or "10.0.0.1"'),
        ("10.0.0.0/33", "this is no IP address or network"),
        ("10.0.0.0/255.0.0.0", "a network ends in the length of its prefix, as in 192.0.2.0/24"),
        ("fe80::1%eth0", "a network ends in the length of its prefix, as in 192.0.2.0/24"),
        ("example.com", "this is no IP address or network"),
        ("010.0.0.1", "this is no IP address or network"),
        ("", "this is no IP address or network"),
        ("/8", "this is no IP address or network"),
    ],
)
def test_a_bad_network_gets_advice(text: str, advice: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_network(text)
    assert str(caught.value) == advice


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_an_ipv4_network_means_the_same_in_its_mapped_form(address: object, length: int) -> None:
    try:
        network = parse_network(f"{address}/{length}")
    except ValueError:
        return
    assert parse_network(f"::ffff:{address}/{96 + length}") == network


@given(st.text())
def test_no_text_makes_a_reader_raise_anything_else(text: str) -> None:
    for reader in (parse_listen_address, parse_network, parse_domain, parse_host, parse_mailbox):
        try:
            first = str(reader(text))
        except ValueError:
            continue
        assert str(reader(first)) == first  # the normal form is its own


def test_a_domain_is_in_the_form_for_comparisons() -> None:
    assert parse_domain("Bücher.Example") == "xn--bcher-kva.example"
    assert parse_mailbox("Jo.Doe@EXAMPLE.com") == "Jo.Doe@example.com"


@pytest.mark.parametrize(
    "text", ["", ".", "a.", "-a.b", "a_b.c", "a b", "a..b", "x" * 64, ".".join(["x" * 60] * 5), "\u2028"]
)
def test_no_domain(text: str) -> None:
    with pytest.raises(ValueError):
        parse_domain(text)


@pytest.mark.parametrize("text", ["", "a", "@b", "a@", "a b@c", "<a@b>", f"{'x' * 65}@b", "a\n@b"])
def test_no_mailbox(text: str) -> None:
    with pytest.raises(ValueError):
        parse_mailbox(text)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1, 1),
        (0.5, 0.5),
        ("30m", 1800),
        ("24h", 86_400),
        ("1h30m", 5400),
        ("90s", 90),
        ("1.5s", 1.5),
        ("300ms", 0.3),
        ("7d", 604_800),
    ],
)
def test_a_duration(value: object, seconds: float) -> None:
    assert Duration().parse(value) == seconds


@pytest.mark.parametrize(
    "value",
    ["", "30", "m", "30 m", "-1s", "1y", "1h 30m", "\u0663s", 0, -1, "0s", True, None, [1], float("inf"), 10**12],
)
def test_no_duration(value: object) -> None:
    with pytest.raises(Unfit):
        Duration().parse(value)


def test_zero_is_a_duration_where_it_makes_sense() -> None:
    assert Duration(zero=True).parse(0) == 0


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 0, 11, []])
def test_no_whole_number_from_1_to_10(value: object) -> None:
    with pytest.raises(Unfit) as caught:
        Whole("things", 1, 10).parse(value)
    assert caught.value.expected == "a whole number of things from 1 to 10"


@pytest.mark.parametrize("value", [True, "1", None, -0.1, float("nan"), 11])
def test_no_amount_to_10(value: object) -> None:
    with pytest.raises(Unfit):
        Amount("hours", 0, 10).parse(value)


@pytest.mark.parametrize("value", [True, 0, 65_536, "25", 25.0])
def test_no_port(value: object) -> None:
    with pytest.raises(Unfit):
        PortNumber().parse(value)


@pytest.mark.parametrize("value", ["", "\x1b[31m", "a\nb", "\u202e", "\ud800", 5, None])
def test_no_text(value: object) -> None:
    with pytest.raises(Unfit):
        kinds.Text().parse(value)


def test_a_synonym_is_read_as_its_word() -> None:
    choice = Choice(("warning",), {"warn": "warning"})
    assert choice.parse("warn") == "warning"
    with pytest.raises(Unfit):
        choice.parse("warm")


def test_priorities_are_those_of_a_mail() -> None:
    assert [priority.name.lower() for priority in Priority] == list(kinds.PRIORITIES)


KINDS = [kind for alias in vars(kinds).values() for kind in get_args(alias)[1:] if isinstance(kind, Kind)]


ANY_JSON = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.lists(st.integers())
    | st.dictionaries(st.text(), st.none())
)


@given(ANY_JSON)
def test_a_kind_refuses_with_words_and_never_otherwise(value: object) -> None:
    assert len(KINDS) > 10
    expected = [kind.expected for kind in KINDS if refuses(kind, value)]
    assert all(expected)


def refuses(kind: Kind, value: object) -> bool:
    try:
        kind.parse(value)
    except Unfit:
        return True
    return False


@pytest.mark.parametrize("value", ["unix:/\ud800", "a\ud800@b", "a\n", "\x1b:25"])
def test_a_form_is_printable(value: str) -> None:
    forms = [kind for kind in KINDS if isinstance(kind, Form)]
    assert forms
    assert all(refuses(kind, value) for kind in forms)
