"""Load for the fault campaign, and what notes each reply and each arrival.

What is not here: faults, or verdicts. Mail comes from Postfix's smtp-source, which says of no mail whether it was
acknowledged: so it speaks through a `Recorder`, which reads the queue id out of every 250. At the other end a sink
reads it out of our trace field.
"""

import re
import selectors
import socket
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import define, frozen

from elemta.testing.sink import Caught, RecordingSink

SENDERS = 20
#: Octets of a mail: what lies within the database, and what is staged in pieces of its own.
SMALL_OCTETS = 4_000
#: Between two runs of smtp-source, which ends at the first lost connection.
AGAIN_SECONDS = 0.05
CHUNK_OCTETS = 65536
_TAKEN = re.compile(rb"250 .*queued as ([0-9A-Za-z]+)\r\n")
_FINAL_LINE = re.compile(rb"^([2-5][0-9]{2}) [^\r\n]*\r\n", re.MULTILINE)
_TRACE_ID = re.compile(rb"\(Elemta\)\s+with\s+[A-Z0-9]+\s+id\s+([0-9A-Za-z]+)")


@frozen
class Refusal:
    """A 4yz or 5yz: when on the monotonic clock, how long the client had waited, what it was told."""

    at: float
    waited: float
    code: int
    line: str


@frozen
class Taken:
    """A 250 for a mail: when, how long the client had waited, the queue id."""

    at: float
    waited: float
    id: str


@define(eq=False)
class _Talk:
    """One client's connection, and ours to the server."""

    client: socket.socket
    server: socket.socket
    is_open: bool = True
    asked_at: float = 0.0
    said: bytes = b""


class Recorder:
    """Listens on 127.0.0.1 while entered; passes everything on, and notes every reply that matters."""

    def __init__(self, port: int) -> None:
        #: Where the server listens; new connections go there.
        self.target = port
        self.taken: list[Taken] = []
        self.refusals: list[Refusal] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._listener.close()
        self._selector.close()

    def forget(self) -> None:
        """Begin to note anew."""
        self.taken, self.refusals = [], []

    def ids(self) -> set[str]:
        """Every mail that was acknowledged."""
        return {each.id for each in self.taken}

    def _run(self) -> None:
        while not self._ended.is_set():
            for key, _ in self._selector.select(timeout=0.1):
                if key.data is None:
                    self._accept()
                elif key.data[0].is_open:  # the other end may have closed it a moment ago
                    self._pass_on(*key.data)
        for talk in {key.data[0] for key in self._selector.get_map().values() if key.data is not None}:
            self._close(talk)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:
            client.close()
            return
        talk = _Talk(client, server)
        self._selector.register(client, selectors.EVENT_READ, (talk, True))
        self._selector.register(server, selectors.EVENT_READ, (talk, False))

    def _pass_on(self, talk: _Talk, from_client: bool) -> None:
        source, target = (talk.client, talk.server) if from_client else (talk.server, talk.client)
        try:
            piece = source.recv(CHUNK_OCTETS)
            if from_client:
                talk.asked_at = time.monotonic()
            else:
                self._note(talk, piece)
            if piece:
                target.sendall(piece)
        except OSError:
            piece = b""
        if not piece:
            self._close(talk)

    def _note(self, talk: _Talk, piece: bytes) -> None:
        """A reply counts when the server sent it, whether or not the client lived to read it."""
        talk.said += piece
        whole, end, talk.said = talk.said.rpartition(b"\n")
        now = time.monotonic()
        for line in (whole + end).splitlines(keepends=True):
            if found := _TAKEN.match(line):
                self.taken.append(Taken(now, now - talk.asked_at, found[1].decode()))
            elif (final := _FINAL_LINE.match(line)) and final[1] >= b"400":
                text = line.decode("ascii", "replace").rstrip()
                self.refusals.append(Refusal(now, now - talk.asked_at, int(final[1]), text))

    def _close(self, talk: _Talk) -> None:
        talk.is_open = False
        for each in (talk.client, talk.server):
            self._selector.unregister(each)
            each.close()


class Load:
    """smtp-source with 20 sessions until told to end; started again where a lost connection ended it."""

    def __init__(self, program: Path, port: int, *, senders: int = SENDERS, octets: int = SMALL_OCTETS) -> None:
        size = ["-s", str(senders), "-m", "1000000", "-l", str(octets)]
        who = ["-f", "s@example.org", "-t", "r@example.net", "-M", "client.example"]
        # -A: a refusal ends nothing; -d: many mails over one connection.
        self._command: list[str | Path] = [program, "-A", "-d", *size, *who, f"127.0.0.1:{port}"]
        self._ended = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _run(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                if self._ended.is_set():
                    return
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            self._process.wait()
            self._ended.wait(AGAIN_SECONDS)

    def end(self) -> None:
        """Stop sending."""
        self._ended.set()
        with self._lock:
            if self._process is not None:
                self._process.kill()
        self._thread.join()


class CountingSink(RecordingSink):
    """A sink that keeps the queue ids of what arrived, how often each, and when each came first."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.arrived: Counter[str] = Counter()
        self.first_at: dict[str, float] = {}
        #: Seconds between the arrival of a mail and its 250: so long it is in flight.
        self.slowness = 0.0
        self._never = threading.Event()

    def _keep(self, caught: Caught) -> None:
        found = _TRACE_ID.search(caught.content[:2000])
        name = found[1].decode() if found else f"without an id: {caught.content[:200]!r}"
        with self.changed:
            self.arrived[name] += 1
            self.first_at.setdefault(name, time.monotonic())
            self.changed.notify_all()
        self._never.wait(self.slowness)

    def missing(self, wanted: set[str]) -> set[str]:
        """What was wanted and never came."""
        with self.changed:
            return wanted - set(self.arrived)

    def twice(self) -> set[str]:
        """What came more than once."""
        with self.changed:
            return {name for name, times in self.arrived.items() if times > 1}
