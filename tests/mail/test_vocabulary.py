"""The words that all rooms share: addresses, envelopes, ids, replies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Recipient
from elemta.mail.ids import ALPHABET, ID_CHARACTERS, is_queue_id, make_queue_id
from elemta.mail.reply import Reply


@pytest.mark.parametrize(
    ("local", "domain", "text"),
    [
        ("bob", "example.org", "bob@example.org"),
        ("Bob.Smith+tag", "example.org", "Bob.Smith+tag@example.org"),
        ("postmaster", "", "postmaster"),
        ("two words", "example.org", '"two words"@example.org'),
        ('a"b\\c', "example.org", '"a\\"b\\\\c"@example.org'),
        ("", "example.org", '""@example.org'),
        (".a", "example.org", '".a"@example.org'),
        ("a.", "example.org", '"a."@example.org'),
        ("a..b", "example.org", '"a..b"@example.org'),
        ("a@b", "[192.0.2.1]", '"a@b"@[192.0.2.1]'),
        ("jürgen", "example.org", "jürgen@example.org"),
    ],
)
def test_an_address_is_written_as_in_a_path(local: str, domain: str, text: str) -> None:
    address = Address(local, domain)
    assert str(address) == text
    assert address.is_ascii == text.isascii()


def test_the_null_reverse_path_reads_as_nothing() -> None:
    recipients = (Recipient(Address("bob", "example.org")),)
    assert Envelope(None, recipients).sender == ""
    assert Envelope(Address("alice", "example.com"), recipients).sender == "alice@example.com"


@given(st.integers(0, 62**8 - 1), st.integers(0, 2**84 - 1))
def test_ids_are_well_formed(milliseconds: int, chance: int) -> None:
    made = make_queue_id(milliseconds, chance)
    assert len(made) == ID_CHARACTERS
    assert is_queue_id(made)


@given(st.integers(0, 62**8 - 2), st.integers(0, 62**14 - 1), st.integers(0, 62**14 - 1))
def test_ids_sort_by_time(milliseconds: int, chance: int, other: int) -> None:
    assert sorted(ALPHABET) == list(ALPHABET)
    assert make_queue_id(milliseconds, chance) < make_queue_id(milliseconds + 1, other)
    assert (make_queue_id(milliseconds, chance) == make_queue_id(milliseconds, other)) == (chance == other)


@pytest.mark.parametrize(
    "text", ["", "0" * 21, "0" * 23, "0" * 22 + "\n", "0" * 21 + "-", "../" + "0" * 19, "0" * 21 + "é", "٠" * 22]
)
def test_nothing_else_is_an_id(text: str) -> None:
    assert not is_queue_id(text)


@pytest.mark.parametrize(
    ("code", "positive", "transient", "permanent"),
    [
        (199, False, False, False),
        (250, True, False, False),
        (354, True, False, False),
        (421, False, True, False),
        (550, False, False, True),
        (600, False, False, False),
    ],
)
def test_the_first_digit_of_a_reply_decides(code: int, *, positive: bool, transient: bool, permanent: bool) -> None:
    reply = Reply(code)
    assert (reply.is_positive, reply.is_transient, reply.is_permanent) == (positive, transient, permanent)


@pytest.mark.parametrize(
    ("reply", "wire", "text"),
    [
        (Reply(250, "2.0.0", "taken"), b"250 2.0.0 taken\r\n", "250 2.0.0 taken"),
        (Reply(354), b"354 \r\n", "354"),
        (Reply(250, "", ("one", "two")), b"250-one\r\n250 two\r\n", "250 one two"),
        (Reply(550, "5.1.1", ("no", "ü")), "550-5.1.1 no\r\n550 5.1.1 ü\r\n".encode(), "550 5.1.1 no ü"),
    ],
)
def test_replies_are_rendered(reply: Reply, wire: bytes, text: str) -> None:
    assert reply.render() == wire
    assert str(reply) == text


@pytest.mark.parametrize("line", ["a\r\nb", "a\nb", "a\r"])
def test_a_reply_with_a_line_break_is_not_rendered(line: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        Reply(250, "", line).render()
