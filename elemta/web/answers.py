"""The forms of an answer: a JSON document, or content in pieces.

What is not here: what is in them. Neither form ever holds a whole large mail.
"""

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from elemta.storage.base import ContentMissing
from elemta.web.base import PIECE_OCTETS

#: RFC 9110 §14.1.2, one range with a first position.
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})", re.ASCII)

#: Reads at most so many octets from an offset; empty at the end.
Read = Callable[[int, int], Awaitable[bytes]]


def encode(document: object) -> bytes:
    """JSON in UTF-8. Lone surrogates, which UTF-8 has no octets for, become escapes (RFC 8259 §8.2)."""
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError:
        return json.dumps(document).encode("ascii")


class JsonAnswer(Response):
    """A JSON document."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The document's octets."""
        return encode(content)


class ContentAnswer(Response):
    """A mail's octets, read as they are sent, or one range of them.

    What is missing when the sending has begun (`ContentMissing`) ends the connection: the declared length shows the
    client that the rest did not come.
    """

    media_type = "message/rfc822"

    def __init__(self, request: Request, size: int, read: Read) -> None:
        self._start, self._stop = 0, size
        status = 200
        headers = {"accept-ranges": "bytes"}
        wanted = _RANGE.fullmatch(request.headers.get("range", ""))
        if wanted is not None:
            start = int(wanted[1])
            stop = min(int(wanted[2]) + 1, size) if wanted[2] else size
            if start < stop:
                self._start, self._stop, status = start, stop, 206
                headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
            elif start >= size:
                # RFC 9110 §15.5.17.
                self._start = self._stop = 0
                status, headers["content-range"] = 416, f"bytes */{size}"
        super().__init__(b"", status, headers)
        self.headers["content-length"] = str(self._stop - self._start)
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        stop = self._start if scope["method"] == "HEAD" else self._stop
        # The first piece before the status: content that is missing from the start is a problem document.
        piece = await self._piece(self._start, stop)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        at = self._start
        while piece:
            at += len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": at < stop})
            piece = await self._piece(at, stop)
        if self._start == stop:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _piece(self, at: int, stop: int) -> bytes:
        if at >= stop:
            return b""
        piece = await self._read(at, min(PIECE_OCTETS, stop - at))
        if not piece:
            raise ContentMissing(f"the content ends after {at} of {stop} octets")
        return piece
