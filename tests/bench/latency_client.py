"""A light SMTP client that times every mail: threads with blocking sockets, octets that were made before.

    python tests/bench/latency_client.py PORT [--sessions 10] [--mails 2000] [--octets 4096] [--kept] [--rate 400]

It is a process of its own, lest whoever measures shares an interpreter with it, and imports the standard library alone.
It prints one JSON object: what `Figures` holds. Each command is one send, each waits for its reply (no PIPELINING).
Without a rate each session sends its next mail when the last one was answered. With a rate each mail has its time, and
is timed from then on, even when the session was not free yet: a server that stops for a second delays all the mails of
that second, and a client that waits politely would count one.

What is not here: servers, rounds, tables. Raises `Refused` for any reply but the one a mail needs, or none.
"""

import argparse
import gc
import json
import math
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

#: Seconds that all sessions together may take to connect.
CONNECT_SECONDS = 30.0
REPLY_OCTETS = 4096
HEADER = b"From: <s@example.org>\r\nTo: <r@example.com>\r\nSubject: latency\r\n\r\n"
LINE = b"The quick brown fox jumps over the lazy dog, and then it does so once again.\r\n"


class Refused(Exception):
    """The server said something else, or nothing; the text has what was asked and what was heard."""


@dataclass(frozen=True)
class Plan:
    """What is to be sent: `rate` in mails a second of all sessions together, None for as fast as possible."""

    port: int
    sessions: int = 10
    mails: int = 2000
    octets: int = 4096
    kept: bool = False
    rate: float | None = None


@dataclass(frozen=True)
class Figures:
    """`dot` is from handing over the content, which ends with the final dot, to its 250; `mail` is the whole mail.

    A whole mail begins with its connection, or with MAIL where the connection is kept, or with its time where it has
    one. All in milliseconds; `cpu` is what this client took for a mail.
    """

    rate: float
    cpu: float
    dot_p50: float
    dot_p99: float
    mail_p50: float
    mail_p99: float


def is_whole(reply: bytes) -> bool:
    """Whether the last line is there, RFC 5321 §4.2.1: it has no hyphen behind its code."""
    at = reply.rfind(b"\n", 0, -1) + 1
    return reply.endswith(b"\r\n") and reply[at + 3 : at + 4] != b"-"


def content(octets: int) -> bytes:
    """A mail of so many octets, give or take a line, with its final dot."""
    return HEADER + LINE * ((octets - len(HEADER)) // len(LINE)) + b".\r\n"


class Session:
    """One client with at most one connection, which is gone after the `with` block."""

    def __init__(self, plan: Plan) -> None:
        self._port = plan.port
        self._content = content(plan.octets)
        self._socket = socket.socket()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def open(self) -> None:
        self._socket.close()
        self._socket = socket.create_connection(("127.0.0.1", self._port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ask(b"", b"220")
        self._ask(b"EHLO client.example.org\r\n", b"250")

    def send(self) -> tuple[float, float]:
        """Send one mail; when its final dot was sent, when it was answered."""
        self._ask(b"MAIL FROM:<s@example.org>\r\n", b"250")
        self._ask(b"RCPT TO:<r@example.com>\r\n", b"250")
        self._ask(b"DATA\r\n", b"354")
        dotted = time.perf_counter()
        self._ask(self._content, b"250")
        return dotted, time.perf_counter()

    def quit(self) -> None:
        self._ask(b"QUIT\r\n", b"221")
        self._socket.close()

    def _ask(self, octets: bytes, code: bytes) -> None:
        if octets:
            self._socket.sendall(octets)
        reply = self._socket.recv(REPLY_OCTETS)
        while reply and not is_whole(reply):
            piece = self._socket.recv(REPLY_OCTETS)
            reply = reply + piece if piece else b""
        if not reply.startswith(code):
            raise Refused(f"{octets[:40]!r} wants {code.decode()}, the server said {reply!r}")


class Start:
    """The moment at which all sessions begin together."""

    def __init__(self, sessions: int) -> None:
        self._barrier = threading.Barrier(sessions, action=self._now)
        self._at = 0.0

    def _now(self) -> None:
        self._at = time.perf_counter()

    def wait(self) -> float:
        self._barrier.wait(CONNECT_SECONDS)
        return self._at

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Nobody waits for a session that fails in this block."""
        try:
            yield
        except BaseException:
            self._barrier.abort()
            raise


@dataclass(frozen=True)
class Timing:
    """One mail, in seconds: when it was answered after the start, from its final dot, as a whole."""

    ended: float
    dot: float
    mail: float


def run_session(plan: Plan, first: int, start: Start) -> list[Timing]:
    """One session's part: every mail whose number is `first` plus a multiple of the sessions."""
    timings = []
    with Session(plan) as session:
        if plan.kept:
            with start.failing():
                session.open()
        began = start.wait()
        pause = threading.Event()
        for number in range(first, plan.mails, plan.sessions):
            asked = time.perf_counter()
            if plan.rate is not None:
                due = began + number / plan.rate
                pause.wait(max(0.0, due - asked))
                asked = due
            if not plan.kept:
                session.open()
            dotted, ended = session.send()
            timings.append(Timing(ended - began, ended - dotted, ended - asked))
            if not plan.kept:
                session.quit()
        if plan.kept:
            session.quit()
    return timings


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that is not exceeded by at least `part` of the values (nearest rank)."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


def run(plan: Plan) -> Figures:
    """Send all mails. Raises `Refused`, or `OSError` for a connection that failed."""
    start = Start(plan.sessions)
    cpu = time.process_time()
    with ThreadPoolExecutor(plan.sessions) as pool:
        parts = [pool.submit(run_session, plan, first, start) for first in range(plan.sessions)]
    cpu = time.process_time() - cpu
    failures = [failure for part in parts if (failure := part.exception()) is not None]
    if failures:
        raise min(failures, key=lambda failure: isinstance(failure, threading.BrokenBarrierError))
    timings = [timing for part in parts for timing in part.result()]
    dots = [timing.dot * 1e3 for timing in timings]
    mails = [timing.mail * 1e3 for timing in timings]
    return Figures(
        rate=len(timings) / max(timing.ended for timing in timings),
        cpu=cpu * 1e3 / len(timings),
        dot_p50=percentile(dots, 0.5),
        dot_p99=percentile(dots, 0.99),
        mail_p50=percentile(mails, 0.5),
        mail_p99=percentile(mails, 0.99),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--sessions", type=int, default=Plan.sessions)
    parser.add_argument("--mails", type=int, default=Plan.mails)
    parser.add_argument("--octets", type=int, default=Plan.octets)
    parser.add_argument("--kept", action="store_true", help="one connection a session instead of one a mail")
    parser.add_argument("--rate", type=float, help="mails a second, steadily; default: as fast as possible")
    plan = Plan(**vars(parser.parse_args()))
    gc.disable()
    print(json.dumps(asdict(run(plan))))


if __name__ == "__main__":
    main()
