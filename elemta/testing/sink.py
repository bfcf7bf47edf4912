"""A plain SMTP sink that remembers every mail.

What is not here: Elemta's own SMTP machine: a sink that shared it would share its defects. Blocking sockets, a thread a
connection, for tests with real processes.
"""

import socket
import threading
from types import TracebackType
from typing import BinaryIO, Self

from attrs import frozen

_EXTENSIONS = b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 0\r\n"


@frozen
class Caught:
    """One mail: the lines of MAIL and RCPT as they came, and the content between DATA and the final dot, unstuffed."""

    mail: bytes
    recipients: tuple[bytes, ...]
    content: bytes


class RecordingSink:
    """Listens on 127.0.0.1 while entered; `mails` grows."""

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1000)
        self.port: int = self._listener.getsockname()[1]
        self.mails: list[Caught] = []
        self.changed = threading.Condition()
        #: Connections that came.
        self.connections = 0
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in tuple(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def wait_for(self, count: int, seconds: float = 30.0) -> list[Caught]:
        """Wait until at least `count` mails came; all that came. Raises `TimeoutError`."""
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.mails) >= count, seconds):
                raise TimeoutError(f"{len(self.mails)} of {count} mails came within {seconds} s")
            return list(self.mails)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            try:
                self._converse(connection, lines)
            except OSError:
                pass
            finally:
                self._open.discard(connection)

    def _converse(self, connection: socket.socket, lines: BinaryIO) -> None:
        connection.sendall(b"220 sink\r\n")
        mail = b""
        recipients: list[bytes] = []
        while line := lines.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                connection.sendall(_EXTENSIONS)
            elif verb == b"DATA":
                connection.sendall(b"354 go on\r\n")
                self._keep(Caught(mail, tuple(recipients), _content(lines)))
                recipients = []
                connection.sendall(b"250 caught\r\n")
            elif verb == b"QUIT":
                connection.sendall(b"221 bye\r\n")
                return
            else:
                if verb == b"MAIL":
                    mail = line.rstrip()
                elif verb == b"RCPT":
                    recipients.append(line.rstrip())
                connection.sendall(b"250 ok\r\n")

    def _keep(self, caught: Caught) -> None:
        with self.changed:
            self.mails.append(caught)
            self.changed.notify_all()


def _content(lines: BinaryIO) -> bytes:
    content = bytearray()
    while (line := lines.readline()) != b".\r\n":
        if not line:
            raise OSError("connection lost inside a mail")
        content += line[1:] if line.startswith(b".") else line
    return bytes(content)
