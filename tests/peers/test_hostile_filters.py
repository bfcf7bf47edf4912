"""Filters that answer rubbish, asked by a whole server.

Each mail meets the policy for failures, the server stays as small as it was, others are served meanwhile, and the next
mail passes. What is not here: filters that are away (`test_plugged_server`), each reader alone (`tests/plugins`).
"""

import json
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import closing, suppress
from itertools import repeat
from pathlib import Path
from typing import Final

import pytest

from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.peers.wire import Wire, resident_octets

#: Seconds that a filter has for an answer.
FILTER_SECONDS: Final = 1.0
#: Seconds that a mail may take whatever its filter does: the chain gives scanners two more, the machine may be busy.
MAIL_SECONDS: Final = 10.0
#: Seconds that others may wait for the answer to NOOP meanwhile.
OTHERS_SECONDS: Final = 3.0
#: Octets of memory beyond those of a server at rest: another body of a milter may have 32 MiB, and is copied.
MORE_OCTETS: Final = 128 * 1024 * 1024

MAIL = b"From: jo@example.org\r\nSubject: x\r\n\r\nbody\r\n"
RUBBISH = random.Random(1).randbytes(100_000)

Connection = socket.socket
Deed = Callable[[Connection], None]
#: What a filter does once it has heard all of a mail.
Deeds = dict[str, Deed]


class Daemon:
    """A filter on a port of loopback; hears a mail as `hear` does, then does `deed`. Runs while entered."""

    def __init__(self, hear: Callable[[Connection, Deed], None], honest: Deed) -> None:
        self._hear = hear
        self.honest = self.deed = honest
        #: How often the deed was done.
        self.done = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> "Daemon":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: Connection) -> None:
        deed = self.deed

        def counted(connection: Connection) -> None:
            self.done += 1
            deed(connection)

        with closing(connection), suppress(OSError, EOFError):
            self._hear(connection, counted)


def receive(connection: Connection) -> bytes:
    piece = connection.recv(65536)
    if not piece:
        raise EOFError
    return piece


# ---- what any of them may do ---------------------------------------------------------------------


def say(*pieces: bytes) -> Deed:
    """These octets, then hang up."""

    def deed(connection: Connection) -> None:
        connection.sendall(b"".join(pieces))

    return deed


def endless(piece: bytes, start: bytes = b"") -> Deed:
    """Go on until nobody listens."""

    def deed(connection: Connection) -> None:
        connection.sendall(start)
        for one in repeat(piece):
            connection.sendall(one)

    return deed


def silence(connection: Connection) -> None:
    with suppress(EOFError):
        while True:
            receive(connection)


def reset(connection: Connection) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


ANYBODY: Final[Deeds] = {
    "rubbish": say(RUBBISH),
    "zeros": say(bytes(100_000)),
    "nothing": say(),
    "reset": reset,
    "silence": silence,
    "endless rubbish": endless(RUBBISH),
    "endless zeros": endless(bytes(65536)),
    "endless lines": endless(b"\r\n" * 32768),
    "another protocol": say(b"220 mail.example.com ESMTP\r\n"),
}

# ---- each of them --------------------------------------------------------------------------------


def packet(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", 1 + len(data)) + kind + data


def field(name: bytes, value: bytes) -> bytes:
    return packet(b"h", name + b"\0" + value + b"\0")


NEGOTIATION = packet(b"O", struct.pack(">III", 6, 0x1FF, 0))


def milter(connection: Connection, deed: Deed) -> None:
    """Goes on until the end of the body."""
    heard = b""
    while True:
        while len(heard) < 4 or len(heard) < 4 + int.from_bytes(heard[:4]):
            heard += receive(connection)
        kind, heard = heard[4:5], heard[4 + int.from_bytes(heard[:4]) :]
        if kind == b"E":
            return deed(connection)
        if kind not in b"DAQK":
            connection.sendall(NEGOTIATION if kind == b"O" else packet(b"c"))


def first(connection: Connection, deed: Deed) -> None:
    """Says so before it has heard anything."""
    deed(connection)


def counted(connection: Connection, deed: Deed) -> None:
    """Hears a head that says how long the rest is: rspamd, spamd."""
    heard = b""
    while b"\r\n\r\n" not in heard:
        heard += receive(connection)
    head, _, rest = heard.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    while len(rest) < length:
        rest += receive(connection)
    deed(connection)


def clamd(connection: Connection, deed: Deed) -> None:
    heard = b""
    while not heard.endswith(bytes(4)):
        heard += receive(connection)
    deed(connection)


def http(body: bytes, length: int | None = None) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
    return head.encode() + body


def scored(score: str) -> bytes:
    return http(b'{"action": "no action", "score": %s}' % score.encode())


def spamd(score: str, length: str = "1") -> bytes:
    return f"SPAMD/1.1 0 EX_OK\r\nContent-length: {length}\r\nSpam: False ; {score} / 5.0\r\n\r\nA".encode()


MILTER: Final[Deeds] = {
    "a huge length": say(b"\xff\xff\xff\xffc"),
    "a length of none": say(bytes(4)),
    "half a packet": say(packet(b"c")[:3]),
    "an unknown kind": say(packet(b"?")),
    "two answers": say(packet(b"c") * 2),
    "the negotiation again": say(NEGOTIATION),
    "a change, no end": say(field(b"X-A", b"b")),
    "a name with CR LF": say(field(b"X-A\r\nBcc", b"evil@example.org"), packet(b"c")),
    "a name with a colon": say(field(b"Bcc: evil@example.org, X-A", b"b"), packet(b"c")),
    "a text without end": say(packet(b"h", b"X-A\0b"), packet(b"c")),
    "a recipient with CR LF": say(packet(b"+", b"<a@example.org>\r\nDATA\0"), packet(b"c")),
    "a sender with a space": say(packet(b"e", b"<a b@example.org>\0"), packet(b"c")),
    "a body with a bare CR": say(packet(b"b", b"a\r.\rb\r\n"), packet(b"c")),
    "a reply of 2yz": say(packet(b"y", b"250 2.0.0 taken\0")),
    "a header too large": say(*[field(b"X-A", b"a" * 900)] * 400, packet(b"c")),
    "a body without end": endless(packet(b"b", b"0123456789abcd\r\n" * 4000)),
    "a body of empty lines without end": endless(packet(b"b", b"\n" * 65000)),
    "an empty body without end": endless(packet(b"b") * 10_000),
    "fields without end": endless(field(b"X-A", b"b") * 1000),
    "work without end": endless(packet(b"p") * 10_000),
    **ANYBODY,
}
RSPAMD: Final[Deeds] = {
    "a huge length": say(http(b"{", 10**15)),
    "a length that is none": say(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"),
    "a huge chunk": say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}"),
    "half an answer": say(scored("1")[:-5]),
    "an error": say(b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n"),
    "a redirect": say(b"HTTP/1.1 302 no\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n"),
    "no JSON": say(http(RUBBISH)),
    "deep JSON": say(http(b"[" * 100_000)),
    "deep objects": say(http(b'{"action":' * 100_000)),
    "NaN": say(scored("NaN")),
    "infinity": say(scored("-Infinity")),
    "1e400": say(scored("1e400")),
    "a score of 400 digits": say(scored("9" * 400)),
    "a score of 5000 digits": say(scored("9" * 5000)),
    "no action": say(http(b'{"score": 1}')),
    "JSON without end": endless(b'"A":{},' * 10_000, b'HTTP/1.1 200 OK\r\n\r\n{"symbols":{'),
    "informed without end": endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "fields without end": endless(b"A: b\r\n" * 1000, b"HTTP/1.1 200 OK\r\n"),
    "a length in small chunks without end": endless(
        b"1\r\n \r\n" * 1000, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    ),
    **ANYBODY,
}
SPAMD: Final[Deeds] = {
    "a huge length": say(spamd("1.0", "999999999")),
    "a length beyond all": say(spamd("1.0", "9" * 5000)),
    "half an answer": say(spamd("1.0", "100")),
    "NaN": say(spamd("nan")),
    "infinity": say(spamd("inf")),
    "1e400": say(spamd("1e400")),
    "a score of 400 digits": say(spamd("9" * 400)),
    "an error": say(b"SPAMD/1.0 76 Bad header line\r\n"),
    "rules without end": endless(b"A," * 32768, b"SPAMD/1.1 0 EX_OK\r\nSpam: False ; 1.0 / 5.0\r\n\r\n"),
    "fields without end": endless(b"A: b\r\n" * 1000, b"SPAMD/1.1 0 EX_OK\r\n"),
    **ANYBODY,
}
CLAMD: Final[Deeds] = {
    "half an answer": say(b"stream: OK"),
    "two answers": say(b"stream: OK\0stream: Eicar FOUND\0"),
    "an answer for a file": say(b"/tmp/other: OK FOUND\0"),
    "an error": say(b"INSTREAM size limit exceeded. ERROR\0"),
    "a name without end": endless(b"Eicar" * 10_000, b"stream: "),
    **ANYBODY,
}
#: What is no failure, and yet must not get out of the line that it belongs to: with the code that the client hears.
EVIL = b"x\r\nBcc: evil@example.org\r\n\r\nx"
TEXT = json.dumps(EVIL.decode())
LINES: Final[dict[str, dict[str, tuple[Deed, int]]]] = {
    "milter": {
        "a value": (say(field(b"X-A", EVIL), packet(b"c")), 250),
        "a reply": (say(packet(b"y", b"554 5.7.1 " + EVIL + b"\0")), 554),
        "a later piece": (say(packet(b"p") * 100, packet(b"b", b"a\n"), packet(b"p"), packet(b"c")), 250),
    },
    "rspamd": {
        "a symbol": (say(http(b'{"action": "add header", "score": 9, "symbols": {%s: {}}}' % TEXT.encode())), 250),
        "a subject": (say(http(b'{"action": "rewrite subject", "score": 9, "subject": %s}' % TEXT.encode())), 250),
        "a reply": (
            say(http(b'{"action": "reject", "score": 99, "messages": {"smtp_message": %s}}' % TEXT.encode())),
            554,
        ),
    },
    "spamassassin": {"a rule": (say(spamd("9.0", str(len(EVIL))).replace(b"False", b"True")[:-1] + EVIL), 250)},
    "clamav": {"a signature": (say(b"stream: " + EVIL + b" FOUND\0"), 554)},
}


def honest_milter(connection: Connection) -> None:
    """A milter that is honest from the beginning on."""
    milter(connection, say(packet(b"c")))


#: The filter, how it hears a mail, what it says to an honest one, what it may do, the policy for failures.
CASES = [
    ("milter", milter, say(packet(b"c")), MILTER, "defer"),
    ("milter", first, honest_milter, ANYBODY, "reject"),
    ("rspamd", counted, say(scored("1.0")), RSPAMD, "reject"),
    ("spamassassin", counted, say(spamd("1.0")), SPAMD, "defer"),
    ("clamav", clamd, say(b"stream: OK\0"), CLAMD, "reject"),
]
CODES = {"defer": {451, 421}, "reject": {550, 554}}


def config(kind: str, port: int, policy: str, sink: RecordingSink) -> dict[str, object]:
    """A server that asks the filter, and sends everything to the sink."""
    base = {
        "hostname": "mail.example.com",
        "allowed_relays": ["127.0.0.1"],
        "routes": [{"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": sink.port}],
    }
    address, own = f"127.0.0.1:{port}", {"enabled": True, "timeout": FILTER_SECONDS}
    if kind == "milter":
        seconds = {f"{what}_timeout": FILTER_SECONDS for what in ("connect", "command", "content")}
        entry = {"name": "milter", "on_error": policy, "settings": {"address": address, **seconds}}
        return {**base, "plugins": {"plugins": [entry]}}
    if kind == "clamav":
        return {**base, "antivirus": {"enabled": True, "on_failure": policy, "clamav": {**own, "address": address}}}
    where = f"http://{address}" if kind == "rspamd" else address
    return {**base, "antispam": {"enabled": True, "on_failure": policy, kind: {**own, "address": where}}}


def bring(port: int) -> bytes:
    """The last reply to a session with one mail."""
    with Wire(port) as wire:
        said = wire.reply()
        lines = (b"EHLO c.example\r\n", b"MAIL FROM:<jo@example.org>\r\n", b"RCPT TO:<max@example.net>\r\n")
        for line in (*lines, b"DATA\r\n", MAIL + b".\r\n"):
            if said[:1] not in (b"2", b"3"):
                break
            said = wire.ask(line)
        return said


class Bystander:
    """A session that was there before; must be served whatever others' filters do."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        wire.reply()
        wire.ask(b"EHLO bystander.example\r\n")

    def watch(self, mail: "Future[bytes]") -> bytes:
        """Ask for nothing, again and again, until the mail has its reply."""
        while True:
            started = time.monotonic()
            assert self._wire.ask(b"NOOP\r\n").startswith(b"250 ")
            assert time.monotonic() - started < OTHERS_SECONDS
            with suppress(NotYet):
                return mail.result(timeout=0.05)


@pytest.mark.parametrize(("kind", "hear", "honest", "deeds", "policy"), CASES)
def test_rubbish_means_the_policy_and_harms_nobody(
    tmp_path: Path,
    sink: RecordingSink,
    kind: str,
    hear: Callable[[Connection, Deed], None],
    honest: Deed,
    deeds: Deeds,
    policy: str,
) -> None:
    with (
        Daemon(hear, honest) as daemon,
        ServerProcess(tmp_path, config(kind, daemon.port, policy, sink)) as server,
        Wire(server.port) as wire,
        ThreadPoolExecutor(1) as clients,
    ):
        bystander = Bystander(wire)
        at_rest = resident_octets(server.pid)
        for name, deed in deeds.items():
            daemon.deed, done, started = deed, daemon.done, time.monotonic()
            said = bystander.watch(clients.submit(bring, server.port))
            assert daemon.done > done, f"{name}: it was asked"
            assert int(said[:3]) in CODES[policy], (name, said)
            assert time.monotonic() - started < MAIL_SECONDS, name
            daemon.deed = honest
            assert bring(server.port).startswith(b"250 "), f"after {name}"
        assert resident_octets(server.pid, "VmHWM") - at_rest < MORE_OCTETS
        assert all(caught.content.endswith(MAIL) for caught in sink.wait_for(len(deeds)))
        assert server.stop() == 0
        assert "Traceback" not in server.log


@pytest.mark.parametrize("kind", list(LINES))
def test_what_a_filter_says_stays_in_its_line(tmp_path: Path, sink: RecordingSink, kind: str) -> None:
    hear, honest = next((case[1], case[2]) for case in CASES if case[0] == kind)
    taken = 0
    with Daemon(hear, honest) as daemon, ServerProcess(tmp_path, config(kind, daemon.port, "defer", sink)) as server:
        for name, (deed, code) in LINES[kind].items():
            daemon.deed = deed
            said = bring(server.port)
            assert (int(said[:3]), said.count(b"\r\n")) == (code, 1), (name, said)
            taken += code == 250
        for caught in sink.wait_for(taken):
            header, _, body = caught.content.partition(b"\r\n\r\n")
            assert not any(line.lower().startswith(b"bcc") for line in header.split(b"\r\n"))
            assert body in (b"body\r\n", b"a\r\n")
