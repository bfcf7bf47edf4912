"""The road from one worker process to the pages of the others.

What is not here: what is asked or made of it (`web.workers`). Each worker has a control socket of its own beside the
server's; a question is one request of HTTP/1.1 (RFC 9112), after whose answer the connection ends.
Failures raised: none; a worker that does not answer in time has no answer.
"""

from collections.abc import Mapping
from pathlib import Path

import h11
import trio

from elemta.net.base import Endpoint, Stream
from elemta.net.sockets import SystemNetwork
from elemta.web.sockets import short_address

#: Seconds for an answer; a worker whose event loop is held up longer is as good as away. Prometheus waits 10.
ANSWER_SECONDS = 1.0
#: Octets of an answer: metrics have some 10,000.
ANSWER_OCTETS = 1024 * 1024

#: The statuses that say something: `/readyz` of a worker that is not ready is 503.
_USEFUL = frozenset({200, 503})
#: The fields that say where a body ends, RFC 9112 §6.
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


def socket_path(folder: Path, number: int) -> Path:
    """Where a worker's own control socket is."""
    return folder.absolute() / f"control-{number}.sock"


class SocketSiblings:
    """The other ones of `processes` workers whose sockets lie in `folder`."""

    def __init__(self, folder: Path, *, number: int, processes: int) -> None:
        self._number = number
        self._paths = {n: socket_path(folder, n) for n in range(1, processes + 1) if n != number}

    @property
    def number(self) -> int:
        """This worker's own number."""
        return self._number

    async def ask(self, page: str) -> Mapping[int, bytes | None]:
        """What each of them answers, by its number, all asked at once; None for one that does not."""
        answers: dict[int, bytes | None] = dict.fromkeys(self._paths)

        async def ask_one(number: int, path: Path) -> None:
            answers[number] = await _ask(path, page)

        with trio.move_on_after(ANSWER_SECONDS):
            async with trio.open_nursery() as nursery:
                for number, path in self._paths.items():
                    nursery.start_soon(ask_one, number, path)
        return answers


async def _ask(path: Path, page: str) -> bytes | None:
    try:
        with short_address(path) as address:
            stream = await SystemNetwork().connect(Endpoint(address))
    except OSError:
        return None
    try:
        return await _exchange(stream, page)
    except (trio.BrokenResourceError, h11.RemoteProtocolError):
        return None
    finally:
        stream.abort()


def _is_useful(answer: h11.Response) -> bool:
    """Whether an answer says something, and how long it is: one that ends with the connection may have been cut."""
    return answer.status_code in _USEFUL and any(name in _FRAMING for name, _ in answer.headers)


async def _exchange(stream: Stream, page: str) -> bytes | None:
    """The body of a whole answer that says something. Raises `h11.RemoteProtocolError` for one that is none."""
    http = h11.Connection(h11.CLIENT)
    request = h11.Request(method="GET", target=page, headers=[("host", "elemta"), ("connection", "close")])
    await stream.send_all((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
    found = bytearray()
    while len(found) <= ANSWER_OCTETS:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some()))
        elif isinstance(event, h11.Response) and not _is_useful(event):
            return None
        elif isinstance(event, h11.Data):
            found += event.data
        elif isinstance(event, h11.EndOfMessage):
            return bytes(found)
    return None
