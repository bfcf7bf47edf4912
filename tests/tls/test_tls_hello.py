"""The server name in a ClientHello, as OpenSSL makes them and as hostile clients do."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.tls.hello import MAX_HELLO_OCTETS, MAX_RECORDS, asked_name


def hello(name: str | None) -> bytes:
    """What OpenSSL sends first when it asks for this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


HELLO = hello("mx.example.com")


def in_records(message: bytes, piece: int) -> bytes:
    """The same handshake message in records of `piece` octets."""
    cut = [message[start : start + piece] for start in range(0, len(message), piece)]
    return b"".join(b"\x16\x03\x01" + len(one).to_bytes(2, "big") + one for one in cut)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("mx.example.com", "mx.example.com"),
        ("MX.Example.COM", "mx.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        (None, ""),
    ],
)
def test_the_name_of_a_real_hello_is_found(asked: str | None, found: str) -> None:
    assert asked_name(hello(asked)) == found


def test_no_name_is_found_before_the_hello_is_whole() -> None:
    for length in range(len(HELLO)):
        assert asked_name(HELLO[:length]) is None
    assert asked_name(HELLO + b"what follows") == "mx.example.com"


def test_a_hello_may_lie_in_several_records() -> None:
    message = HELLO[5:]
    piece = len(message) // (MAX_RECORDS - 1)
    assert asked_name(in_records(message, piece)) == "mx.example.com"
    assert asked_name(in_records(message, 1)) == ""


@pytest.mark.parametrize("name", [b"m\xfc.example.com", b"m\x00.example.com", b"m .example.com", b"m\n.example.com"])
def test_a_name_that_is_none_counts_as_none(name: bytes) -> None:
    changed = HELLO.replace(b"mx.example.com", name)
    assert len(changed) == len(HELLO)
    assert asked_name(changed) == ""


def test_what_is_too_long_is_not_waited_for() -> None:
    endless = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xf0" + bytes(MAX_HELLO_OCTETS)
    assert asked_name(endless[: MAX_HELLO_OCTETS - 1]) is None
    assert asked_name(endless[:MAX_HELLO_OCTETS]) == ""


@pytest.mark.parametrize("text", [b"EHLO there\r\n", b"\x15\x03\x01\x00\x02\x02\x28", b"\x16\x03\x01\x00\x05hello"])
def test_what_is_no_hello_asks_for_nothing(text: bytes) -> None:
    assert asked_name(text) == ""


@given(st.binary(max_size=300))
def test_hostile_octets_raise_nothing(octets: bytes) -> None:
    assert asked_name(octets) in (None, "")


@given(st.data())
def test_a_changed_hello_raises_nothing(data: st.DataObject) -> None:
    changed = bytearray(HELLO)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    name = asked_name(bytes(changed))
    assert name is None or name.isascii()
