"""httpx over the host's network, so that it is virtual where the rest of the world is.

What is not here: what is asked (`scanners.checkv2`). One connection a request, closed behind it; no proxy, no redirect,
no deadline of its own: the caller's scope is the deadline. Names are asked of the host's resolver.
Failure raised: `ScannerFailed`.

Only who needs it imports this module: httpx takes longer to import than all else here.
"""

import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

import httpcore
import httpx
import trio

from elemta.mail.headers import printable
from elemta.net.base import Stream
from elemta.plugins.api import Content, Host
from elemta.plugins.scanners.base import MAX_SCANS, connect
from elemta.plugins.scanners.checkv2 import MAX_ANSWER_OCTETS
from elemta.plugins.scanners.failure import ScannerFailed

#: TCP ports where an address names none, RFC 9110 §4.2.
_PORTS: Final = {b"http": 80, b"https": 443}
#: httpcore's failures of a connection or of what comes over it; they have no name in common.
_FAILURES: Final = (httpcore.NetworkError, httpcore.ProtocolError)


class _Connection(httpcore.AsyncNetworkStream):
    """A stream of ours, or TLS over one, as httpcore wants it."""

    def __init__(self, below: Stream, stream: trio.abc.Stream) -> None:
        self._below = below
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # httpcore's words
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.ReadError("the connection broke") from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  # httpcore's words
        try:
            await self._stream.send_all(buffer)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.WriteError("the connection broke") from error

    async def aclose(self) -> None:
        # httpcore shields this without a deadline, and TLS would say goodbye to who may not listen.
        self._below.abort()
        await trio.lowlevel.checkpoint()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's words
    ) -> httpcore.AsyncNetworkStream:
        tls = trio.SSLStream(self._below, ssl_context, server_hostname=server_hostname, https_compatible=True)
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError as error:
            self._below.abort()
            raise httpcore.ConnectError(f"the TLS handshake failed: {error.__cause__ or error}") from error
        except BaseException:
            self._below.abort()  # httpcore would leave it open
            raise
        return _Connection(self._below, tls)


class _Network(httpcore.AsyncNetworkBackend):
    """The host's network as httpcore wants it."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's words
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await connect(self._host, host, port)
        return _Connection(stream, stream)


class _Transport(httpx.AsyncBaseTransport):
    """What httpx sends goes through httpcore's pool over the host's network."""

    def __init__(self, host: Host, context: ssl.SSLContext | None) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=MAX_SCANS,
            max_keepalive_connections=0,  # rspamd hangs up behind each answer; a mail must not meet a dead connection
            network_backend=_Network(host),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        assert isinstance(request.stream, httpx.AsyncByteStream)
        target = httpcore.URL(
            scheme=url.raw_scheme,
            host=url.raw_host,
            port=url.port or _PORTS[url.raw_scheme],
            target=url.raw_path,
        )
        passed = httpcore.Request(request.method, target, headers=request.headers.raw, content=request.stream)
        try:
            answer = await self._pool.handle_async_request(passed)
        except _FAILURES as error:
            raise httpx.TransportError(str(error)) from error
        return httpx.Response(answer.status, headers=answer.headers, stream=_Answer(answer))

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Answer(httpx.AsyncByteStream):
    """The body of an answer, read while it comes."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._answer.aiter_stream():
                yield piece
        except _FAILURES as error:
            raise httpx.TransportError(str(error)) from error

    async def aclose(self) -> None:
        await self._answer.aclose()


class _Body(httpx.AsyncByteStream):
    """The body of a question. Handed to httpx as it is, which would make a generator of anything else, and leave that
    open where a connection breaks."""

    def __init__(self, content: Content) -> None:
        self._content = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._content.chunks()


def client(host: Host, context: ssl.SSLContext | None) -> httpx.AsyncClient:
    """A client whose connections are the host's; `context` is for https."""
    return httpx.AsyncClient(transport=_Transport(host, context), trust_env=False, timeout=None)


async def post(through: httpx.AsyncClient, url: str, fields: Sequence[tuple[bytes, bytes]], content: Content) -> bytes:
    """Send content, and return the body of the answer 200. Raises `ScannerFailed`."""
    length = (b"Content-Length", b"%d" % content.size)
    host = (b"Host", httpx.URL(url).netloc)
    request = httpx.Request("POST", url, headers=[host, length, *fields], stream=_Body(content))
    try:
        answer = await through.send(request, stream=True)
        try:
            return await _kept(answer)
        finally:
            await answer.aclose()  # noqa: ASYNC120  # it does not wait: see `_Connection.aclose`
    except httpx.HTTPError as error:
        raise ScannerFailed(f"no whole answer: {error}") from error


async def _kept(answer: httpx.Response) -> bytes:
    """The body. It is read to its end, whatever its size: httpx's generators are not to be left in the middle. What is
    kept of it is bounded; what bounds the rest is time."""
    kept, octets = [], 0
    async for piece in answer.aiter_raw():
        octets += len(piece)
        if octets <= MAX_ANSWER_OCTETS:
            kept.append(piece)
    if answer.status_code in (401, 403):
        raise ScannerFailed(f"it answers {answer.status_code}: is api_key right?")
    if answer.status_code != 200:
        raise ScannerFailed(f"it answers {answer.status_code} {_reason(kept)}".rstrip())
    if octets > MAX_ANSWER_OCTETS:
        raise ScannerFailed(f"an answer of more than {MAX_ANSWER_OCTETS} octets")
    return b"".join(kept)


def _reason(kept: Sequence[bytes]) -> str:
    return printable(b"".join(kept)[:200].decode("utf-8", "replace"))
