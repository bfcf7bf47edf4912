"""Promises 23, 24: attacks fill no log and forge no line of it; malformed mail goes through as it came."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.peers.test_hostile import discarding, get_ready, warm_up
from tests.peers.wire import Door, Wire, encrypting, own_part, wait_until

HONEST = [
    b"EHLO client.example\r\n",
    b"HELO client.example\r\n",
    b"MAIL FROM:<s@example.org> SIZE=100 BODY=8BITMIME\r\n",
    b"MAIL FROM:<>\r\n",
    b"RCPT TO:<r@example.net> NOTIFY=SUCCESS ORCPT=rfc822;r@example.net\r\n",
    b'RCPT TO:<"quoted local"@example.net>\r\n',
    b"DATA\r\n",
    b"Subject: x\r\n\r\n.hello\r\n.\r\n",
    b"BDAT 5\r\nhello",
    b"BDAT 3 LAST\r\n\r\n.",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"VRFY <r@example.net>\r\n",
    b"EXPN list\r\n",
    b"HELP\r\n",
    b"STARTTLS\r\n",
    b"AUTH PLAIN AHUAcA==\r\n",
    b"XDEBUG\r\n",
    b"GET / HTTP/1.1\r\n",
    b"QUIT\r\n",
]
#: What would forge a line, colour a terminal, end a string, if it came through.
NASTY = [
    *(b"\r", b"\n", b"\0", b"\x07", b"\x7f", b"\x1b[2J", b"\x1b]0;title\x07"),
    *(b"\xff\xfe", b"\xe2\x80\xa8", b"\xe2\x80\xae", b"\xc2\x85"),
    *(b"%s%n", b"{}", b'"}\n{"event":"forged"', b"A" * 3000),
    *(b"<", b">", b"@", b":", b"..", b"\r\n.\r\n"),
]


#: Lines of `HONEST` that make a mail, with DATA and with BDAT.
DIALOGUES = [(0, 2, 4, 6, 7, 19), (1, 3, 5, 6, 7, 19), (0, 2, 4, 5, 8, 9, 10, 2, 4, 6, 7)]


def fuzzed(chance: random.Random) -> list[bytes]:
    """One session's pieces: a dialogue or honest lines in any order, some of them damaged."""
    lines = [HONEST[number] for number in chance.choice(DIALOGUES)]
    if chance.random() < 0.3:
        lines = [HONEST[0], *chance.choices(HONEST, k=chance.randrange(1, 20))]
    damages = chance.choice((0, 1, 1, 2, 5))
    for _ in range(damages):
        which = chance.randrange(len(lines))
        damaged = bytearray(lines[which])
        at = chance.randrange(len(damaged) + 1)
        damaged[at : at + chance.randrange(3)] = chance.choice(NASTY)
        lines[which] = bytes(damaged)
    return lines


@pytest.fixture
def taken(tmp_path: Path, door: Door, certificate: Path) -> Iterator[ServerProcess]:
    """A server whose first listener has that door, whose second one is for honest mail in the clear."""
    config = discarding(
        limits={"max_connections_per_address": 500},
        listeners=[
            {"address": "127.0.0.1:0", "tls": door.value, "auth": True},
            {"address": "127.0.0.1:0"},
        ],
        auth={"enabled": True, "datasource_path": str(tmp_path / "users.db"), "max_failures_per_address": 3},
        **encrypting(door, certificate),
    )
    with ServerProcess(tmp_path, config) as server:
        yield server


def session(port: int, seed: int, door: Door) -> None:
    """One hostile session, in one piece or waiting for replies."""
    chance = random.Random(seed)
    pieces = fuzzed(chance)
    patient = chance.random() < 0.7
    # Now and then what comes is no handshake at all.
    fits = chance.random() < 0.9
    with Wire(port, door=door if fits else Door.PLAIN) as wire:
        with suppress(OSError):
            if chance.random() < 0.9 and (fits or door is not Door.IMPLICIT):
                wire.greeting()
            for piece in pieces if patient else [b"".join(pieces)]:
                wire.send(piece)
                wire.socket.settimeout(0.05)  # a damaged line may have no reply to wait for
                with suppress(TimeoutError):
                    wire.socket.recv(65536)
            wire.socket.settimeout(30)
            wire.end()
            while wire.socket.recv(65536):
                continue


@pytest.mark.parametrize(("door", "sessions"), [(Door.PLAIN, 500), (Door.STARTTLS, 150), (Door.IMPLICIT, 150)])
def test_fuzzed_sessions_leave_a_line_each(taken: ServerProcess, door: Door, sessions: int) -> None:
    check_fuzzed_sessions(taken, sessions, door=door)


def check_fuzzed_sessions(taken: ServerProcess, sessions: int, *, door: Door = Door.PLAIN) -> None:
    """Fuzz, and read the log: at most a line a connection, none of them forged."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: session(taken.port, seed, door), range(sessions)))
    warm_up(int(taken.ready["listeners"][-1]["port"]))
    wait_until(lambda: taken.log.count('"session.ended"') >= sessions + 1, "every session is logged")
    raw = (taken.folder / "elemta.log").read_bytes()
    text = raw.decode("utf-8")
    lines = text.split("\n")[:-1]
    assert "Traceback" not in text
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for line in lines for char in line)
    assert not any(char in text for char in "\u2028\u2029\u202e")
    events = [json.loads(line) for line in lines]
    kinds = Counter(event["event"] for event in events)
    # A mail that is taken and delivered has events of its own; an attack that gets nowhere has its session's alone.
    mails = {"mail.accepted", "delivery.outcome", "queue.report"}
    # Who guesses is locked out once, not once for each guess.
    assert kinds["auth.locked_out"] <= 1
    assert set(kinds) - mails - {"tls.loaded", "auth.locked_out"} == {
        "queue.joined",
        "server.ready",
        "session.ended",
    }, kinds
    assert kinds["session.ended"] == sessions + 1
    assert kinds["mail.accepted"] > sessions / 10, "too few sessions got as far as a mail"
    assert kinds["delivery.outcome"] <= 20 * kinds["mail.accepted"]
    assert {event["level"] for event in events} <= {"info", "warning"}


# ---- malformed mail ------------------------------------------------------------------------------


def as_sent(content: bytes) -> bytes:
    """A file as a client may send it: CRLF line ends, each line at most 998 octets (RFC 5321 §4.5.3.1.6)."""
    lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n").split(b"\n")
    return b"".join(line[:998] + b"\r\n" for line in lines)


def test_malformed_mail_goes_through_unchanged(tmp_path: Path, sink: RecordingSink, vectors: Path) -> None:
    files = sorted(path for path in (vectors / "mime").rglob("*") if path.suffix == ".txt")
    others = sorted(path for path in (vectors / "mime").rglob("*") if path.is_file() and path.suffix != ".txt")
    assert len(files) >= 40
    route = {"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": sink.port}
    refused: dict[str, bytes] = {}
    sent: list[bytes] = []
    with ServerProcess(tmp_path, discarding(routes=[route], limits={"max_errors": 1000})) as server:
        for path in (*files, *others):
            content = as_sent(path.read_bytes())
            with Wire(server.port) as wire:
                get_ready(
                    wire, b"EHLO c\r\nMAIL FROM:<s@example.org> BODY=8BITMIME\r\nRCPT TO:<r@example.net>\r\nDATA\r\n"
                )
                stuffed = content[:1].replace(b".", b"..") + content[1:].replace(b"\r\n.", b"\r\n..")
                reply = wire.ask(stuffed + b".\r\n")
            if reply[:3] == b"250":
                sent.append(content)
            else:
                refused[path.name] = reply
        caught = sink.wait_for(len(sent))
        assert sorted(own_part(mail.content) for mail in caught) == sorted(sent)
        assert "Traceback" not in server.log
    assert set(refused).isdisjoint(path.name for path in files), refused
    assert all(reply[:1] in (b"4", b"5") for reply in refused.values())
