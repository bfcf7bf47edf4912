"""The road from one worker process to the pages of the others.

What is not here: what is asked or made of it (`web.workers`). Each worker has a control socket of its own beside the
server's; a question is one request of HTTP/1.0 (RFC 1945 §5), whose answer ends with the connection.
Failures raised: none; a worker that does not answer in time has no answer.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import trio
from trio.abc import ReceiveStream

from elemta.net.base import Endpoint
from elemta.net.sockets import SystemNetwork
from elemta.web.sockets import short_address

#: Seconds for an answer; a worker whose event loop is held up longer is as good as away. Prometheus waits 10.
ANSWER_SECONDS = 1.0
#: Octets of an answer: metrics have some 10,000.
ANSWER_OCTETS = 1024 * 1024

#: The statuses that say something: `/readyz` of a worker that is not ready is 503.
_USEFUL = re.compile(rb"HTTP/1\.[01] (?:200|503)\b")
_LENGTH = re.compile(rb"^content-length: *(\d{1,9})\r?$", re.IGNORECASE | re.MULTILINE)


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
        await stream.send_all(f"GET {page} HTTP/1.0\r\n\r\n".encode())
        return _content(await _everything(stream))
    except trio.BrokenResourceError:
        return None
    finally:
        stream.abort()


async def _everything(stream: ReceiveStream) -> bytes:
    found = bytearray()
    while len(found) <= ANSWER_OCTETS and (piece := await stream.receive_some()):
        found += piece
    return bytes(found)


def _content(answer: bytes) -> bytes | None:
    """The body of a whole answer that says something."""
    head, _, body = answer.partition(b"\r\n\r\n")
    useful = _USEFUL.match(head)
    length = _LENGTH.search(head)
    return body if useful and length and int(length[1]) == len(body) else None
