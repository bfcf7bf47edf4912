"""How one request reaches the operators' pages: over the control socket, or by a call in this process.

What is not here: which of the two it is, or what is asked (`cli.client`). Both roads are HTTP, the one of RFC 9112, the
other of ASGI. Everything that is slow to import is imported when a request is sent.
Failure raised: `CommandError` where no answer comes.
"""

import contextlib
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from attrs import field, frozen

from elemta.cli.output import CommandError, ExitCode

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

#: What names the server in a request; behind the control socket nobody looks at it.
_HOST = "elemta"


@frozen
class Request:
    """One request. `target` is the path with its query; `seconds` bounds each wait for the other side."""

    method: str
    target: str
    seconds: float
    body: bytes = b""
    headers: Mapping[str, str] = field(factory=dict)


@frozen
class Answer:
    """What came back, whole. The names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Road(Protocol):
    """One way to the pages."""

    async def send(self, request: Request) -> Answer:
        """The answer to a request. Raises `CommandError` where none comes."""
        ...


class SocketRoad:
    """To a running server, with a connection of its own for each request.

    It blocks instead of awaiting, so that a command needs no event loop, whose import takes longer than the request.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    async def send(self, request: Request) -> Answer:
        """The answer to a request. Raises `CommandError` where none comes."""
        import http.client

        with contextlib.closing(http.client.HTTPConnection(_HOST)) as connection:
            try:
                connection.sock = self._connect(request.seconds)
                connection.request(request.method, request.target, request.body or None, dict(request.headers))
                found = connection.getresponse()
                headers = {name.lower(): value for name, value in found.getheaders()}
                return Answer(found.status, headers, found.read())
            except TimeoutError as error:
                raise CommandError("the server does not answer; try again", ExitCode.TEMPORARY) from error
            except (OSError, http.client.HTTPException) as error:
                raise CommandError(f"the server hung up: {error or 'no answer'}", ExitCode.UNREACHABLE) from error

    def _connect(self, seconds: float) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(seconds)
            sock.connect(self._address)
        except BaseException:
            sock.close()
            raise
        return sock


class CallRoad:
    """To pages in this process, under Trio. Nothing is bounded in time: there is no other side that could be slow."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def send(self, request: Request) -> Answer:
        """The answer to a request. Raises `CommandError` where it is not whole; the application has logged why."""
        call = _Call(request)
        await self._app(call.scope(), call.receive, call.send)
        if not call.complete:
            raise CommandError("the answer is not whole; the log says why")
        return Answer(call.status, call.headers, bytes(call.content))


class _Call:
    """One request to an ASGI application, and its answer as it comes."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._asked = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.content = bytearray()
        self.complete = False

    def scope(self) -> dict[str, Any]:
        """The request as the ASGI specification's HTTP scope has it."""
        path, _, query = self._request.target.partition("?")
        given = {"host": _HOST, "content-length": str(len(self._request.body)), **self._request.headers}
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self._request.method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("ascii"),
            "query_string": query.encode("ascii"),
            "root_path": "",
            "headers": [(name.encode("ascii"), value.encode("ascii")) for name, value in given.items()],
            "client": None,
            "server": None,
        }

    async def receive(self) -> "Message":
        """The request's body, then nothing more: the one who asks stays."""
        import trio

        if self._asked:
            await trio.sleep_forever()
        self._asked = True
        return {"type": "http.request", "body": self._request.body, "more_body": False}

    async def send(self, message: "Message") -> None:
        """Take a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            fields = message["headers"]
            self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in fields}
        else:
            self.content += message.get("body", b"")
            self.complete = not message.get("more_body", False)
