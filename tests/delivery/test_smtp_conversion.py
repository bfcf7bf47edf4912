"""8-bit mails for hosts that take 7 bits: converted where that is sure, else returned."""

import email
import email.policy
import quopri

import pytest
import trio
from hypothesis import given, strategies

from elemta.delivery.conversion import MAX_CONVERTED_OCTETS, header_is_ascii, quoted_printable, to_seven_bit
from elemta.mail.outcome import Delivered, Failed
from tests.delivery.jobs import Octets, attempt
from tests.delivery.scripted import EVERYTHING, Host, world

SEVEN_BIT = tuple(each for each in EVERYTHING if each != "8BITMIME")
HEADER = (
    "Subject: hi\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
)
TEXT = f"{HEADER}\r\n.Grüße, {'ö' * 200}\r\ntrailing blank \r\nand = signs\r\n".encode()


async def test_one_text_part_is_converted_and_reads_the_same() -> None:
    converted = await to_seven_bit(Octets(TEXT))
    octets = await converted.read(0, converted.size)
    assert octets.isascii()
    assert not converted.eight_bit
    assert max(map(len, octets.split(b"\r\n"))) <= 76
    assert octets.count(b"\n") == octets.count(b"\r") == octets.count(b"\r\n")
    before = email.message_from_bytes(TEXT, policy=email.policy.SMTP)
    after = email.message_from_bytes(octets, policy=email.policy.SMTP)
    assert after.get_payload(decode=True) == before.get_payload(decode=True)
    assert after["Content-Transfer-Encoding"] == "quoted-printable"
    fields = [name for name in before.keys() if name != "Content-Transfer-Encoding"]  # noqa: SIM118  # no mapping
    assert [after[name] for name in fields] == [before[name] for name in fields]


lines = strategies.lists(
    strategies.binary(max_size=200).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b"")), max_size=8
)


@given(lines, strategies.booleans())
def test_quoted_printable_comes_back_the_same(texts: list[bytes], ended: bool) -> None:
    body = b"\r\n".join(texts) + (b"\r\n" if ended else b"")
    encoded = quoted_printable(body)
    assert quopri.decodestring(encoded) == body
    assert encoded.isascii()
    assert encoded.count(b"\n") == encoded.count(b"\r") == encoded.count(b"\r\n")
    assert max(map(len, encoded.split(b"\r\n"))) <= 76
    assert not any(line.endswith((b" ", b"\t")) for line in encoded.split(b"\r\n"))


@pytest.mark.parametrize(
    "mail",
    [
        TEXT.replace(b"text/plain; charset=utf-8", b"multipart/mixed; boundary=x"),
        TEXT.replace(b"text/plain", b"application/octet-stream"),
        TEXT.replace(b"8bit", b"binary"),
        TEXT.replace(b"Content-Transfer-Encoding: 8bit\r\n", b""),
        TEXT.replace(b"MIME-Version: 1.0\r\n", b""),
        TEXT.replace(b"Content-Type", b"X-Type"),
        TEXT.replace(b"Subject: hi", "Subject: hï".encode()),
        TEXT.replace(b"Subject: hi", b"Content-Type: text/html"),
        TEXT.replace(b"\r\n\r\n", b"\r\nX: "),
        TEXT + b"x" * MAX_CONVERTED_OCTETS,
    ],
)
async def test_all_other_mails_stay_as_they_are(mail: bytes) -> None:
    content = Octets(mail)
    assert await to_seven_bit(content) is content
    assert content.eight_bit


async def test_folded_and_oddly_written_fields_are_understood() -> None:
    mail = TEXT.replace(b"Content-Transfer-Encoding: 8bit", b"content-transfer-ENCODING :\r\n  8BIT ")
    converted = await to_seven_bit(Octets(mail))
    octets = await converted.read(0, converted.size)
    assert b"\r\ncontent-transfer-ENCODING : quoted-printable\r\n\r\n" in octets


@pytest.mark.parametrize(
    ("mail", "expected"),
    [
        (b"", True),
        (b"Subject: a\r\n\r\n\xe9", True),
        (b"\r\n\xe9", True),
        (b"Subject: \xe9\r\n\r\n", False),
        (b"Subject: a\r\nX: \xe9", False),
        (b"Subject: a\r\nX: " + b"x" * 2_000_000, False),
    ],
)
async def test_the_header_is_looked_at_alone(mail: bytes, expected: bool) -> None:
    assert await header_is_ascii(Octets(mail)) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [(TEXT, Delivered), (TEXT.replace(b"text/plain", b"multipart/mixed"), Failed), (b"Subject: plain\r\n", Delivered)],
)
async def test_a_host_without_8bitmime(content: bytes, expected: type) -> None:
    host = Host(extensions=SEVEN_BIT)
    async with trio.open_nursery() as nursery:
        here = world(nursery, host)
        (outcome,) = await here.transport.deliver(attempt("one@example.net", content=content).job)
        nursery.cancel_scope.cancel()
    assert isinstance(outcome, expected)
    if isinstance(outcome, Failed):
        assert (outcome.reply.code, outcome.reply.enhanced) == (554, "5.6.3")
        assert not any(command.startswith("MAIL") for command in host.commands)
    else:
        (mail,) = host.mails
        assert mail.content.isascii()
        assert "BODY" not in mail.commands[0]
        stuffing = mail.content.count(b"\r\n..")
        assert f"SIZE={len(mail.content) - stuffing}" in mail.commands[0]
