"""Promises 9, 10: no end of mail but CRLF.CRLF counts, and none leaves that is not one.

Each odd end stands before a second mail, as a smuggler writes it. A server that takes it for an end takes the second
mail as well; one that lets it through makes the next server do so.
"""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from elemta.testing.process import ServerProcess
from tests.peers.wire import Door, Wire, codes, encrypting, mail_of, queued, wait_until

ODD_ENDS = {
    "lf-dot-lf": b"\n.\n",
    "lf-dot-crlf": b"\n.\r\n",
    "crlf-dot-lf": b"\r\n.\n",
    "cr-dot-cr": b"\r.\r",
    "cr-dot-crlf": b"\r.\r\n",
    "crlf-dot-cr": b"\r\n.\r",
    "cr-dot-lf": b"\r.\n",
    "lf-dot-cr": b"\n.\r",
    "cr-crlf-dot-crlf": b"\r\r\n.\r\n",
    "crlf-dot-cr-crlf": b"\r\n.\r\r\n",
    "nul-crlf-dot-nul-crlf": b"\r\n\x00.\r\n",
    "crlf-dot-nul-crlf": b"\r\n.\x00\r\n",
    "crlf-nul-dot-crlf": b"\r\n\x00.\r\n",
    "cr-nul-lf": b"\r\x00\n.\r\x00\n",
    "nel": "\u0085.\u0085".encode(),
    "line-separator": "\u2028.\u2028".encode(),
    "vertical-tab": b"\x0b.\x0b",
    "form-feed": b"\x0c.\x0c",
    "crlf-dot-space-crlf": b"\r\n. \r\n",
    "crlf-dot-dot-crlf": b"\r\n..\r\n",
}

#: It holds a true end of data, RFC 5321 §4.1.1.4, behind a bare CR. Where a bare CR is refused, the session ends there;
#: where the operator has chosen to mend them, what follows are honest commands of a trusted client.
TRUE_BEHIND_BARE = ODD_ENDS["cr-crlf-dot-crlf"]

SECOND = (
    b"MAIL FROM:<smuggler@example.org>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\n"
    b"Subject: smuggled\r\n\r\nsmuggled\r\n.\r\n"
)


TAKEN = b"250 ok\r\n"


class RawSink:
    """Listens while entered; keeps every octet between 354 and the end, for whoever ends a mail by CRLF.CRLF.

    Speaks SMTP or LMTP, whichever it is greeted in, for one recipient a mail; nobody is known whose name is `refused`.
    """

    def __init__(self, *extensions: bytes) -> None:
        self._hello = b"".join(b"250-%s\r\n" % each for each in (b"raw", *extensions)) + b"250 PIPELINING\r\n"
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self._listener.getsockname()[1]
        self.mails: list[bytes] = []
        self.commands: list[bytes] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.sendall(b"220 raw\r\n")
            buffered = b""
            taken = False
            while True:
                line, found, buffered = buffered.partition(b"\r\n")
                if not found:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    buffered = line + piece
                    continue
                self.commands.append(line)
                if line == b"DATA" and taken:
                    connection.sendall(b"354 go on\r\n")
                    buffered = self._content(connection, buffered)
                    connection.sendall(b"250 kept\r\n")
                    continue
                reply = self._reply(line)
                taken = reply == TAKEN and line.startswith(b"RCPT")
                connection.sendall(reply)

    def _reply(self, line: bytes) -> bytes:
        if line[:4] in (b"EHLO", b"LHLO"):
            return self._hello
        if line == b"DATA":
            return b"503 5.5.1 nobody to send it to\r\n"
        return b"550 5.1.1 unknown\r\n" if line.startswith(b"RCPT TO:<refused@") else TAKEN

    def _content(self, connection: socket.socket, buffered: bytes) -> bytes:
        raw = b"\r\n" + buffered
        while b"\r\n.\r\n" not in raw:
            piece = connection.recv(65536)
            if not piece:
                raise OSError("connection lost inside a mail")
            raw += piece
        content, _, rest = raw.partition(b"\r\n.\r\n")
        self.mails.append(content + b"\r\n")
        return rest


@pytest.fixture(scope="module")
def raw() -> Iterator[RawSink]:
    with RawSink() as raw:
        yield raw


#: Over TLS alone what is refused is tried: what mends is the same code.
WAYS_IN = [
    ("refuse", Door.PLAIN),
    ("normalize", Door.PLAIN),
    ("refuse", Door.STARTTLS),
    ("refuse", Door.IMPLICIT),
]


@pytest.fixture(scope="module", params=WAYS_IN, ids=[f"{how}-{door.name.lower()}" for how, door in WAYS_IN])
def way_in(request: pytest.FixtureRequest) -> tuple[str, Door]:
    how, door = request.param
    return how, door


@pytest.fixture(scope="module")
def bare_newlines(way_in: tuple[str, Door]) -> str:
    return way_in[0]


@pytest.fixture(scope="module")
def door(way_in: tuple[str, Door]) -> Door:
    return way_in[1]


@pytest.fixture(scope="module")
def server(
    way_in: tuple[str, Door], tmp_path_factory: pytest.TempPathFactory, raw: RawSink, certificate: Path
) -> Iterator[ServerProcess]:
    bare_newlines, door = way_in
    config = {
        "hostname": "relay.example.com",
        "allowed_relays": ["127.0.0.1"],
        "limits": {"max_connections_per_address": 500},
        "listeners": [{"address": "127.0.0.1:0", "bare_newlines": bare_newlines, "tls": door.value}],
        **encrypting(door, certificate),
        "routes": [{"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": raw.port}],
    }
    folder: Path = tmp_path_factory.mktemp(bare_newlines)
    with ServerProcess(folder, config) as server:
        yield server


def attack(server: ServerProcess, content: bytes, *, chunked: bool, door: Door) -> bytes:
    """Send a mail with a second one behind it; all that the server says from the reply to the content on."""
    with Wire(server.port, door=door) as wire:
        wire.greeting()
        wire.ask(b"EHLO attacker.example\r\n")
        wire.ask(b"MAIL FROM:<attacker@example.org>\r\n")
        wire.ask(b"RCPT TO:<first@example.net>\r\n")
        if chunked:
            # One BDAT holds all of it: within a chunk, an end of data means nothing.
            wire.send(b"BDAT %d LAST\r\n" % len(content) + content + b"QUIT\r\n")
        else:
            wire.ask(b"DATA\r\n")
            wire.send(content + b"\r\n.\r\nQUIT\r\n")
        wire.end()
        return wire.rest()


def delivered_since(server: ServerProcess, raw: RawSink, before: int) -> list[bytes]:
    """What arrived at the sink after `before` mails, once the queue is empty."""
    wait_until(lambda: queued(server) == 0, "the queue is empty")
    return raw.mails[before:]


@pytest.mark.parametrize("chunked", [False, True], ids=["data", "bdat"])
@pytest.mark.parametrize("end", ODD_ENDS.values(), ids=list(ODD_ENDS))
def test_an_odd_end_smuggles_nothing(
    server: ServerProcess, raw: RawSink, bare_newlines: str, door: Door, end: bytes, chunked: bool
) -> None:
    before, commands = len(raw.mails), len(raw.commands)
    if end == TRUE_BEHIND_BARE and bare_newlines == "normalize" and not chunked:
        assert codes(attack(server, b"Subject: first\r\n\r\nfirst" + end + b"NOOP", chunked=False, door=door))[0] == 250
        assert len(delivered_since(server, raw, before)) == 1
        return
    content = b"Subject: first\r\n\r\nfirst" + end + SECOND.removesuffix(b"\r\n.\r\n")
    said = codes(attack(server, content, chunked=chunked, door=door))
    # One reply to the content, then QUIT's or the end: not one more, or something was taken for commands.
    assert len(said) <= 2, said
    assert said[0] // 100 in (2, 5) or said[0] == 421, said
    assert said[1:] in ([], [221], [421]), said
    arrived = delivered_since(server, raw, before)
    assert len(arrived) == (said[0] == 250)
    assert not any(b"smuggler" in command or b"victim" in command for command in raw.commands[commands:])
    for mail in arrived:
        leaves_clean(mail)


def leaves_clean(mail: bytes) -> None:
    """What RFC 5321 asks of every mail that is sent: §2.3.8 line ends, §4.5.2 dots, §4.5.3.1.6 lines."""
    lines = mail.removeprefix(b"\r\n").split(b"\r\n")
    for line in lines:
        assert b"\r" not in line
        assert b"\n" not in line
        assert not line.startswith(b".") or line.startswith(b"..")
        assert len(line.removeprefix(b".")) <= 998


@pytest.mark.parametrize("chunked", [False, True], ids=["data", "bdat"])
def test_an_odd_end_alone_ends_nothing(
    server: ServerProcess, raw: RawSink, bare_newlines: str, door: Door, chunked: bool
) -> None:
    """With no true end behind it the mail never ends: nothing is taken, nothing arrives."""
    before = len(raw.mails)
    for end in ODD_ENDS.values():
        if end == TRUE_BEHIND_BARE and bare_newlines == "normalize":
            continue
        with Wire(server.port, door=door) as wire:
            wire.greeting()
            wire.ask(b"EHLO attacker.example\r\n")
            wire.ask(b"MAIL FROM:<attacker@example.org>\r\n")
            wire.ask(b"RCPT TO:<first@example.net>\r\n")
            content = b"Subject: first\r\n\r\nfirst" + end
            if chunked:
                wire.send(b"BDAT %d LAST\r\n" % (len(content) + 1) + content)
            else:
                wire.ask(b"DATA\r\n")
                wire.send(content)
            wire.end()
            assert all(code >= 400 for code in codes(wire.rest())), end
    assert delivered_since(server, raw, before) == []


def test_chunks_may_end_anywhere(server: ServerProcess, raw: RawSink, door: Door) -> None:
    """An end of data that is split over chunks, or begins a chunk, is content like any other."""
    before = len(raw.mails)
    pieces = [b"Subject: chunks\r\n\r\none\r", b"\n", b".", b"\r\n", b".\r\n", b"..\r\n.", b"\r\n"]
    with Wire(server.port, door=door) as wire:
        wire.greeting()
        wire.ask(b"EHLO client.example\r\n")
        wire.ask(b"MAIL FROM:<s@example.org>\r\n")
        wire.ask(b"RCPT TO:<r@example.net>\r\n")
        for piece in pieces:
            assert wire.ask(b"BDAT %d\r\n" % len(piece) + piece)[:3] == b"250"
        assert wire.ask(b"BDAT 0 LAST\r\n")[:3] == b"250"
    (arrived,) = delivered_since(server, raw, before)
    assert arrived.endswith(b"\r\n\r\none\r\n..\r\n..\r\n...\r\n..\r\n")
    leaves_clean(arrived)


def test_every_mail_leaves_clean(server: ServerProcess, raw: RawSink, door: Door) -> None:
    before = len(raw.mails)
    with Wire(server.port, door=door) as wire:
        wire.greeting()
        wire.ask(b"EHLO client.example\r\n")
        for seed in range(200):
            wire.send(b"MAIL FROM:<s@example.org>\r\nRCPT TO:<r@example.net>\r\nDATA\r\n")
            assert codes(wire.reply() + wire.reply() + wire.reply()) == [250, 250, 354]
            stuffed = mail_of(2000, seed).replace(b"\r\n.", b"\r\n..")
            assert wire.ask(stuffed + b".\r\n")[:3] == b"250"
    arrived = delivered_since(server, raw, before)
    assert len(arrived) == 200
    for mail in arrived:
        leaves_clean(mail)
    endings = [mail_of(2000, seed).replace(b"\r\n.", b"\r\n..") for seed in range(200)]
    assert all(any(mail.endswith(ending) for mail in arrived) for ending in endings[::20])
