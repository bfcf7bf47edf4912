"""An SMTP server that fails as it is told.

What is not here: Elemta's own machine, as in `elemta.testing.sink`. Blocking sockets, a thread a connection.
"""

import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, Self

from attrs import field, frozen

#: Hang up without a word.
DROP = b""

_USUAL = {
    b"EHLO": b"250-faulty\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
    b"DATA": b"354 go on\r\n",
    b"QUIT": b"221 bye\r\n",
}


@frozen
class Asked:
    """What a client said: the verb (`.` for the end of a mail), its whole line, how often this verb came before."""

    verb: bytes
    line: bytes
    before: int


@frozen
class Seen:
    """What came: every command in order, every mail that was sent to its final dot."""

    commands: list[bytes] = field(factory=list)
    mails: list[bytes] = field(factory=list)


class FaultySink:
    """Listens on 127.0.0.1 while entered. `answer` gives the reply to a command, DROP, or None for the usual one."""

    def __init__(self, answer: Callable[[Asked], bytes | None]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self._listener.getsockname()[1]
        self.seen = Seen()
        self._counts: dict[bytes, int] = {}
        self._lock = threading.Lock()

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
        with connection, connection.makefile("rb") as lines:
            try:
                connection.sendall(b"220 faulty\r\n")
                while line := lines.readline():
                    if not self._one(connection, lines, line):
                        return
            except OSError:
                return

    def _one(self, connection: socket.socket, lines: BinaryIO, line: bytes) -> bool:
        reply = self._reply(line[:4].upper().rstrip(), line.rstrip())
        connection.sendall(reply)
        if reply.startswith(b"354"):
            content = _content(lines)
            with self._lock:
                self.seen.mails.append(content)
            reply = self._reply(b".", b".")
            connection.sendall(reply)
        return reply != DROP and not reply.startswith((b"221", b"421"))

    def _reply(self, verb: bytes, line: bytes) -> bytes:
        with self._lock:
            before = self._counts.get(verb, 0)
            self._counts[verb] = before + 1
            self.seen.commands.append(line)
            reply = self._answer(Asked(verb, line, before))
        return _USUAL.get(verb, b"250 ok\r\n") if reply is None else reply


def _content(lines: BinaryIO) -> bytes:
    content = bytearray()
    while (line := lines.readline()) != b".\r\n":
        if not line:
            raise OSError("connection lost inside a mail")
        content += line
    return bytes(content)
