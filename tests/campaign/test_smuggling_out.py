"""Promise 10, the long form: thousands of odd mails by every route out, each captured as the octets it left in."""

import os
import random
import re
import threading
import time
from collections import Counter
from pathlib import Path

from attrs import frozen

from elemta.testing.process import ServerProcess
from tests.peers.test_smuggling import ODD_ENDS, SECOND, RawSink, leaves_clean
from tests.peers.wire import Wire, queued, wait_until

BODIES = int(os.environ.get("ELEMTA_TEST_BODIES", "10000"))
SENDERS = 4
#: The most that one line may hold, RFC 5321 §4.5.3.1.6.
LINE_OCTETS = 998
#: Of a large mail, each a few octets: more than the pieces in which content is sent, so that many begin with a dot.
LARGE_LINES = 50_000
HEADER = (
    "From: <s@example.org>\r\nSubject: {number}\r\nMIME-Version: 1.0\r\n"
    "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
)

#: Recipient → the route its mail takes out. The reports about `refused` go to the sender.
RECIPIENTS = {
    b"r@smart.example": "smtp",
    b"r@lmtp.example": "lmtp",
    b"r@[127.0.0.1]": "mx",
    b"r@seven.example": "smtp without 8BITMIME",
    b"refused@smart.example": "report",
}
#: The odd ends that end a line wherever they are mended; NUL is refused in any mail.
ODD_NEWLINES = [end for end in ODD_ENDS.values() if end[:1] in b"\r\n" and end[-1:] in b"\r\n" and b"\0" not in end]
_SUBJECT = re.compile(rb"\r\nSubject: ([0-9]+)\r\n")
_COMMANDS = re.compile(rb"(?:[EL]HLO|MAIL FROM|RCPT TO|DATA|RSET|QUIT)\b.*")


@frozen
class Letter:
    """One mail to send: what it holds, to whom it goes, and how it comes in."""

    number: int
    content: bytes
    recipient: bytes
    #: Bare CR and LF among it, for the listener that mends them.
    bare: bool
    chunked: bool


def letter(number: int) -> Letter:
    """The mail of that number, the same in each run."""
    chance = random.Random(number)
    bare, chunked = chance.random() < 0.4, chance.random() < 0.4
    lines = [_line(chance) for _ in range(chance.randrange(1, 20))]
    if chance.random() < 0.01:
        lines += chance.choices((b".", b"..", b".x", b""), k=LARGE_LINES)
    body = lines[0]
    for line in lines[1:]:
        body += (_odd_end(chance) if bare and chance.random() < 0.3 else b"\r\n") + line
    body += chance.choice(
        (b"\r\n", b"", b"\r\n.", b"\r\n..", b"\r\n\r\n", b"\r" if bare else b"", b"\n" if bare else b"")
    )
    if bare and chance.random() < 0.2:
        body += _odd_end(chance) + SECOND.removesuffix(b"\r\n.\r\n")
    content = HEADER.format(number=number).encode() + body
    return Letter(number, content, tuple(RECIPIENTS)[number % len(RECIPIENTS)], bare, chunked)


def _odd_end(chance: random.Random) -> bytes:
    return chance.choice((*ODD_NEWLINES, b"\r", b"\n", b"\n\r", b"\r\r\n"))


def _line(chance: random.Random) -> bytes:
    dots = b"." * chance.choice((0, 0, 0, 1, 1, 2, 3, LINE_OCTETS))
    room = LINE_OCTETS - len(dots)
    text = chance.choice((b"", b"", b" ", b"\t", b"text", b"=2E", "é\u0085\u2028".encode(), b"\xff\x85", b"\x0b\x0c"))
    if text and chance.random() < 0.3:
        text *= room // len(text)
    return dots + text[:room]


def send(letters: list[Letter], port: int) -> None:
    """Send mails over one connection; each must be taken."""
    with Wire(port) as wire:
        wire.reply()
        wire.ask(b"EHLO client.example\r\n")
        for each in letters:
            wire.send(b"MAIL FROM:<s@example.org> BODY=8BITMIME RET=FULL\r\nRCPT TO:<%s>\r\n" % each.recipient)
            replies = [wire.reply(), wire.reply()]
            replies += _send_chunks(wire, each) if each.chunked else _send_data(wire, each)
            assert all(reply[:1] in (b"2", b"3") for reply in replies), (each.number, replies)


def _send_chunks(wire: Wire, each: Letter) -> list[bytes]:
    chance = random.Random(each.number)
    cut = chance.randrange(len(each.content) + 1)
    first, last = each.content[:cut], each.content[cut:]
    return [wire.ask(b"BDAT %d\r\n" % cut + first), wire.ask(b"BDAT %d LAST\r\n" % len(last) + last)]


def _send_data(wire: Wire, each: Letter) -> list[bytes]:
    stuffed = each.content.replace(b"\r\n.", b"\r\n..")
    end = b".\r\n" if stuffed.endswith(b"\r\n") else b"\r\n.\r\n"
    return [wire.ask(b"DATA\r\n"), wire.ask(stuffed + end)]


def relay(raw: RawSink, seven: RawSink) -> dict[str, object]:
    """A relay with each transport that speaks to a network."""
    to_raw = {"host": "127.0.0.1", "port": raw.port}
    return {
        "hostname": "relay.example.com",
        "allowed_relays": ["127.0.0.1"],
        "listeners": [
            {"address": "127.0.0.1:0", "bare_newlines": "refuse", "name": "strict"},
            {"address": "127.0.0.1:0", "bare_newlines": "normalize", "name": "mending"},
        ],
        "routes": [
            {"domain": "lmtp.example", "transport": "lmtp", **to_raw},
            {"domain": "seven.example", "transport": "smtp", "host": "127.0.0.1", "port": seven.port},
            {"domain": "smart.example", "transport": "smtp", **to_raw},
            {"domain": "example.org", "transport": "smtp", **to_raw},
            {"domain": "*", "transport": "mx", "allow_private": True, "port": raw.port},
        ],
    }


def test_every_mail_leaves_clean_by_every_route(tmp_path: Path) -> None:
    letters = [letter(number) for number in range(BODIES)]
    with (
        RawSink(b"8BITMIME") as raw,
        RawSink() as seven,
        ServerProcess(tmp_path, relay(raw, seven)) as server,
    ):
        strict, mending = (int(each["port"]) for each in server.ready["listeners"])
        began = time.monotonic()
        send_all(letters, strict, mending)
        wait_until(lambda: queued(server) == 0, "the queue is empty", 120)
        seconds = time.monotonic() - began
        mails = raw.mails + seven.mails
        assert len(mails) == BODIES, "one mail, or one report, for each that was taken"
        for mail in mails:
            leaves_clean(mail)
        for command in raw.commands + seven.commands:
            assert _COMMANDS.fullmatch(command), command
        compare(letters, raw.mails)
        assert server.stop() == 0
    ways = Counter(RECIPIENTS[each.recipient] for each in letters)
    octets = sum(map(len, mails))
    figures = f"{len(mails)} bodies, {octets / 1e6:.0f} MB, in {seconds:.0f} s: {dict(ways)}"
    print(f"{figures}, {len(seven.mails)} of them taken without 8BITMIME")  # noqa: T201


def send_all(letters: list[Letter], strict: int, mending: int) -> None:
    """Send over several connections to both listeners at once."""
    failures: list[BaseException] = []

    def run(mine: list[Letter], port: int) -> None:
        try:
            send(mine, port)
        except (AssertionError, OSError) as error:
            failures.append(error)

    threads = []
    for bare, port in ((False, strict), (True, mending)):
        fitting = [each for each in letters if each.bare == bare]
        threads += [threading.Thread(target=run, args=(fitting[n::SENDERS], port)) for n in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def compare(letters: list[Letter], mails: list[bytes]) -> None:
    """What was sent clean arrived as it was, once the dots are taken off again."""
    arrived: dict[int, bytes] = {}
    for mail in mails:
        found = _SUBJECT.search(mail)
        if found:
            arrived.setdefault(int(found[1]), mail)
    compared = 0
    for each in letters:
        if each.bare or each.recipient not in (b"r@smart.example", b"r@lmtp.example", b"r@[127.0.0.1]"):
            continue
        whole = each.content if each.content.endswith(b"\r\n") else each.content + b"\r\n"
        assert arrived[each.number].replace(b"\r\n.", b"\r\n").endswith(b"\r\n" + whole), each.number
        compared += 1
    assert compared > len(letters) // 4
