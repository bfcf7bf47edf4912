"""A server that answers as the tests of sending want it to, over blocking sockets in a thread."""

import contextlib
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

#: What it says where nothing else is asked for.
ANSWERS = {
    "": b"220 scripted ESMTP\r\n",
    "EHLO": b"250-scripted\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 SIZE 1000000\r\n",
    "DATA": b"354 go on\r\n",
    ".": b"250 2.0.0 taken\r\n",
    "QUIT": b"221 2.0.0 bye\r\n",
}


class ScriptedServer:
    """Listens on 127.0.0.1, or at `path`, while entered.

    `answers` goes by a command's first word, or by the whole command, which wins; an empty answer hangs up. `commands`
    holds every line that came, `contents` what came between DATA and the dot, as it was on the wire. `most_mails` are
    taken over one connection, 421 answers the next; `most_connections` are taken at all.
    """

    def __init__(
        self,
        answers: Mapping[str, bytes] | None = None,
        *,
        path: Path | None = None,
        most_mails: int = 1_000_000,
        most_connections: int = 1_000_000,
    ) -> None:
        self._most_mails = most_mails
        self._connections_left = most_connections
        self._answers = {**ANSWERS, **(answers or {})}
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.create_server(str(path), family=socket.AF_UNIX)
            self.address = f"unix:{path}"
        self.commands: list[str] = []
        self.contents: list[bytes] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listener.fileno() != -1:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for thread in self._threads:
            thread.join(timeout=30)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]  # any function
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections_left -= 1
            if not self._connections_left:
                self._listener.close()
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        # A client that has heard enough may reset the connection: what came until then counts.
        with connection, connection.makefile("rb") as lines, contextlib.suppress(ConnectionError):
            self._converse(connection, lines)

    def _converse(self, connection: socket.socket, lines: BinaryIO) -> None:
        connection.sendall(self._answers[""])
        mails = 0
        while line := lines.readline():
            command = line.decode("utf-8", "replace").removesuffix("\r\n")
            self.commands.append(command)
            verb = command.partition(" ")[0].upper()
            answer = self._answers.get(command, self._answers.get(verb, b"250 2.0.0 ok\r\n"))
            if mails >= self._most_mails:
                answer = b"421 4.3.2 enough\r\n"
            if not answer:
                return
            connection.sendall(answer)
            if answer.startswith(b"354"):
                self.contents.append(_content(lines))
                mails += 1
                if not self._answers["."]:
                    return
                connection.sendall(self._answers["."])
            if verb == "QUIT" or answer.startswith(b"421"):
                return


def _content(lines: BinaryIO) -> bytes:
    """Raises `ConnectionError` for a mail that is cut off."""
    content = b""
    while (line := lines.readline()) != b".\r\n":
        if not line:
            raise ConnectionError("the mail is cut off")
        content += line
    return content
