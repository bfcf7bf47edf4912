"""What tests with real processes read and write by hand: raw dialogues, the proc file system, trace fields.

What is not here: assertions, or the processes themselves (`tests.peers.postfix`, `elemta.testing`).
"""

import enum
import os
import random
import socket
import sqlite3
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trustme

from elemta.testing.process import ServerProcess

#: Seconds that a client waits for any answer; generous, since what fails is the answer and not its speed.
PATIENCE_SECONDS = 30.0


class Door(enum.Enum):
    """How a client comes in."""

    PLAIN = "none"
    STARTTLS = "starttls"
    IMPLICIT = "implicit"


class Wire:
    """An SMTP client that says exactly what it is told. An answer that does not come is a `TimeoutError`.

    Behind STARTTLS the greeting and that one command are over; whatever certificate is shown is taken.
    """

    def __init__(self, port: int, seconds: float = PATIENCE_SECONDS, *, door: Door = Door.PLAIN) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self._lines = self.socket.makefile("rb")
        self._is_greeted = door is Door.STARTTLS
        if door is Door.STARTTLS:
            self.reply()
            self.ask(b"EHLO client.example\r\n")
            self.ask(b"STARTTLS\r\n")
        if door is not Door.PLAIN:
            self.encrypt()

    def encrypt(self) -> None:
        """Shake hands."""
        self._lines.close()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket, server_hostname="mail.example.com")
        self._lines = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close at once; what is in flight is lost."""
        self._lines.close()
        self.socket.close()

    def send(self, octets: bytes) -> None:
        """Send as it is."""
        self.socket.sendall(octets)

    def greeting(self) -> bytes:
        """The greeting; empty behind STARTTLS, where it is over."""
        return b"" if self._is_greeted else self.reply()

    def end(self) -> None:
        """Send no more; what the server says can still be read."""
        # That of TLS would take the encryption away from what is read.
        socket.socket.shutdown(self.socket, socket.SHUT_WR)

    def reply(self) -> bytes:
        """The next reply, all its lines; empty at the end of the connection."""
        lines = b""
        while True:
            try:
                line = self._lines.readline()
            except ConnectionError:
                return lines
            lines += line
            if line[3:4] != b"-":
                return lines

    def ask(self, octets: bytes) -> bytes:
        """Send, and wait for one reply."""
        self.send(octets)
        return self.reply()

    def rest(self) -> bytes:
        """Everything until the other side ends the connection."""
        said = b""
        try:
            while piece := self._lines.read1(65536):
                said += piece
        except ConnectionError:
            pass
        return said


def make_certificate(folder: Path) -> Path:
    """A key and its certificate for mail.example.com, relay.example.com, in one file."""
    issued = trustme.CA().issue_cert("mail.example.com", "relay.example.com")
    path = folder / "pair.pem"
    path.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    path.chmod(0o600)
    return path


def encrypting(door: Door, certificate: Path) -> dict[str, Any]:
    """The configuration of a server with such a door; the file holds certificate and key."""
    if door is Door.PLAIN:
        return {}
    pair = {"cert_file": str(certificate), "key_file": str(certificate)}
    return {"tls": {"enabled": True, **pair, "handshakes_per_address": 10_000}}


def codes(replies: bytes) -> list[int]:
    """The codes of the last lines of replies."""
    return [int(line[:3]) for line in replies.split(b"\r\n") if line[:3].isdigit() and line[3:4] == b" "]


def own_part(content: bytes) -> bytes:
    """A mail's content without the one field that Elemta put before it."""
    assert content.startswith(b"Received: from "), content[:200]
    lines = content.split(b"\r\n")
    own = 1
    while lines[own][:1] in (b" ", b"\t"):
        own += 1
    return b"\r\n".join(lines[own:])


def mail_of(octets: int, seed: int) -> bytes:
    """A mail with dots where they hurt most, in lines of at most 998 octets (RFC 5321 §4.5.3.1.6)."""
    chance = random.Random(seed)
    lines = [b"From: sender@example.org", b"Subject: " + str(seed).encode(), b""]
    while octets > 0:
        line = b"." * chance.randrange(3) + bytes(chance.choices(b"abc. \t=", k=chance.randrange(900))) + b"z"
        lines.append(line)
        octets -= len(line) + 2
    return b"\r\n".join(lines) + b"\r\n"


#: Between two looks at another process, which cannot tell us when.
LOOK_SECONDS = 0.02


def wait_until(true: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for something another process does. Raises `TimeoutError` with `what` in it."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        threading.Event().wait(LOOK_SECONDS)


def queued(server: ServerProcess) -> int:
    """Mails in the queue, in any state."""
    return int(_ask(server, "SELECT count(*) FROM mails")[0][0])


def attempts(server: ServerProcess, domain: str = "") -> list[str]:
    """The results of every attempt that the queue remembers, oldest first; of recipients in one domain if asked."""
    rows = _ask(server, "SELECT result, recipient FROM attempts ORDER BY number")
    return [str(result) for result, recipient in rows if recipient.endswith(domain)]


def _ask(server: ServerProcess, question: str) -> list[Any]:
    database = sqlite3.connect(f"file:{server.folder / 'queue' / 'queue.db'}?mode=ro", uri=True, timeout=10)
    try:
        return database.execute(question).fetchall()
    finally:
        database.close()


def resident_octets(pid: int, figure: str = "VmRSS") -> int:
    """Memory of a process: VmRSS now, VmHWM the most it ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == figure:
            return int(value.split()[0]) * 1024
    raise ProcessLookupError(pid)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process with all its threads, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
