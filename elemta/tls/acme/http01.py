"""A small HTTP server that answers http-01.

It knows one kind of request, `GET /.well-known/acme-challenge/<token>` of a challenge that is under way (RFC 8555
§8.3); everything else is 404, and what is no HTTP is 400. It stands on the open internet, so nothing of a request is
repeated or logged, nothing tells what program it is. One request a connection, RFC 9112 §9.6.
What is not here: who puts challenges up (`Http01` is handed to `tls.acme.order`), or binding the port as a worker
process (the one that orders binds).
Failures raised: `OSError` from `listen`; nothing from a connection.
"""

from collections.abc import Sequence
from typing import Protocol

import h11
import trio

from elemta.net.base import Listener, Network, Stream
from elemta.runtime.threads import Threads
from elemta.tls.acme.base import Kind
from elemta.tls.acme.cabinet import TOKEN, Cabinet
from elemta.tls.acme.order import ChallengeFailed, Task

#: Where the authority asks, RFC 8555 §8.3.
PATH = b"/.well-known/acme-challenge/"

#: Connections at once; an authority asks from a handful of places. When there are more, the oldest one has to go: a
#: slow stranger keeps no authority out.
CONNECTIONS = 32
#: Seconds from a connection's beginning to its end.
CONNECTION_SECONDS = 10.0
#: Octets of a request's head.
HEAD_OCTETS = 8192
#: Octets asked for in one receive.
RECEIVE_OCTETS = 4096
#: Connections that wait in the kernel.
BACKLOG = 64
#: Threads that look for an answer of another process.
THREADS = 2
#: Seconds of rest after an accept that failed for want of something: descriptors are given back in time.
ACCEPT_REST_SECONDS = 0.1


class Answers(Protocol):
    """Where the answers to tokens are."""

    async def answer(self, token: str) -> bytes:
        """The answer to a token, empty for an unknown one."""
        ...


class SharedAnswers:
    """The answers of every process that uses one cabinet."""

    def __init__(self, cabinet: Cabinet, threads: Threads) -> None:
        self._cabinet = cabinet
        self._threads = threads
        self._limiter = trio.CapacityLimiter(THREADS)

    async def answer(self, token: str) -> bytes:
        """The answer to a token, empty for an unknown one, or when the disk fails."""
        try:
            return await self._threads.run(self._limiter, self._cabinet.answer, token)
        except OSError:
            return b""


class Http01:
    """The `Solver` of http-01: answers lie in the cabinet, where every process finds them that holds the port."""

    kind = Kind.HTTP

    def __init__(self, cabinet: Cabinet, threads: Threads) -> None:
        self._cabinet = cabinet
        self._threads = threads
        self._limiter = trio.CapacityLimiter(1)

    async def put_up(self, tasks: Sequence[Task]) -> None:
        """Have the answers lie in the cabinet. Raises `ChallengeFailed`."""
        try:
            for task in tasks:
                await self._threads.run(self._limiter, self._cabinet.post_answer, task.token, task.answer)
        except OSError as error:
            raise ChallengeFailed(f"the answer cannot be kept in {self._cabinet.folder}: {error}") from error

    async def take_down(self, tasks: Sequence[Task]) -> None:
        """Forget the answers; what cannot be removed does no harm."""
        for task in tasks:
            try:
                await self._threads.run(self._limiter, self._cabinet.remove_answer, task.token)
            except OSError:
                return


class Responder:
    """The server. `listen`, then `run`."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._listeners: Sequence[Listener] = ()
        #: The connections, oldest first.
        self._scopes: dict[trio.CancelScope, None] = {}

    @property
    def listeners(self) -> Sequence[Listener]:
        """Where it listens."""
        return self._listeners

    async def listen(self, network: Network, address: str) -> None:
        """Bind. Raises `OSError`, with the address as its `filename`."""
        try:
            self._listeners = await network.listen(address, BACKLOG)
        except OSError as error:
            error.filename = address
            raise

    async def run(self) -> None:
        """Serve until cancelled, then close the port."""
        try:
            async with trio.open_nursery() as nursery:
                for listener in self._listeners:
                    nursery.start_soon(self._accept, listener, nursery)
        finally:
            self.close()

    def close(self) -> None:
        """Give up the port."""
        for listener in self._listeners:
            listener.close()

    async def _accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError:
                await trio.sleep(ACCEPT_REST_SECONDS)
                continue
            if len(self._scopes) >= CONNECTIONS:
                oldest = next(iter(self._scopes))
                oldest.cancel()
                del self._scopes[oldest]
            scope = trio.CancelScope(deadline=trio.current_time() + CONNECTION_SECONDS)
            self._scopes[scope] = None
            nursery.start_soon(self._serve, stream, scope)

    async def _serve(self, stream: Stream, scope: trio.CancelScope) -> None:
        ended = False
        try:
            with scope:
                await self._talk(stream)
                await stream.aclose()
                ended = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._scopes.pop(scope, None)
            if not ended:
                stream.abort()

    async def _talk(self, stream: Stream) -> None:
        machine = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_OCTETS)
        try:
            request = await _request(stream, machine)
            if request is None:
                return
            body = await self._body(request)
            status = 200 if body else 404
        except h11.RemoteProtocolError:
            body, status = b"", 400
        headers = [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))]
        response = h11.Response(status_code=status, headers=[*headers, ("Connection", "close")])
        pieces = [machine.send(response), machine.send(h11.Data(data=body)), machine.send(h11.EndOfMessage())]
        await stream.send_all(b"".join(piece or b"" for piece in pieces))
        # Closing at once would reset a connection whose request has more to say, and with it what we said.
        await stream.send_eof()
        await _until_end(stream)

    async def _body(self, request: h11.Request) -> bytes:
        target = bytes(request.target)
        token = target.removeprefix(PATH)
        if request.method != b"GET" or token == target or TOKEN.fullmatch(token) is None:
            return b""
        return await self._answers.answer(token.decode("ascii"))


async def _request(stream: Stream, machine: h11.Connection) -> h11.Request | None:
    """The head of the request, None when the peer ends first. Raises `h11.RemoteProtocolError`."""
    while True:
        event = machine.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        machine.receive_data(bytes(await stream.receive_some(RECEIVE_OCTETS)))


async def _until_end(stream: Stream) -> None:
    """Hear the peer out, within the connection's seconds and as many octets as a head may have."""
    heard = 0
    while heard < HEAD_OCTETS:
        piece = await stream.receive_some(RECEIVE_OCTETS)
        if not piece:
            return
        heard += len(piece)
