"""One question over HTTP/1.1 with its answer, without I/O (RFC 9112, by way of h11).

What is not here: the connection (`scanners.base`), what is asked (`scanners.checkv2`). A redirect is no answer.
Failure raised: `ScannerFailed`.
"""

from collections.abc import Sequence

import h11

from elemta.mail.headers import printable
from elemta.plugins.scanners.failure import ScannerFailed

#: Octets of an answer, head and all: a hundred rules with their options and descriptions are some 30 KiB.
MAX_ANSWER_OCTETS = 1024 * 1024
#: Status codes of RFC 9110 §15.
_OK, _UNAUTHORIZED, _FORBIDDEN = 200, 401, 403


class HttpExchange:
    """A POST of so many octets, sent as `head`, `piece` by piece, `end`; then the answer."""

    def __init__(self, target: str, fields: Sequence[tuple[bytes, bytes]], octets: int) -> None:
        length = (b"Content-Length", b"%d" % octets)
        self._request = h11.Request(method=b"POST", target=target.encode(), headers=[length, *fields])
        self._machine = h11.Connection(h11.CLIENT)
        self._status = 0
        self._kept: list[bytes] = []
        self._octets = 0

    def head(self) -> bytes:
        """What goes before the octets."""
        return self._machine.send(self._request) or b""

    def piece(self, octets: bytes) -> bytes:
        """The next octets of the body."""
        return self._machine.send(h11.Data(data=octets)) or b""

    def end(self) -> bytes:
        """What goes behind them."""
        return self._machine.send(h11.EndOfMessage()) or b""

    def receive(self, data: bytes) -> bytes | None:
        """The body of an answer 200, once it is whole; `data` is empty at the end of the connection. Raises
        `ScannerFailed`."""
        self._octets += len(data)
        if self._octets > MAX_ANSWER_OCTETS:
            raise ScannerFailed(f"an answer of more than {MAX_ANSWER_OCTETS} octets")
        try:
            self._machine.receive_data(data)
            while True:
                event = self._machine.next_event()
                match event:
                    case h11.Response():
                        self._status = event.status_code
                    case h11.Data():
                        self._kept.append(bytes(event.data))
                    case h11.EndOfMessage():
                        return self._judged()
                    case h11.ConnectionClosed():
                        raise ScannerFailed("no whole answer: the connection ended before it")
                    case _ if event is h11.NEED_DATA:
                        return None
        except h11.RemoteProtocolError as error:
            raise ScannerFailed(f"no whole answer: {printable(str(error))[:200]}") from error

    def _judged(self) -> bytes:
        body = b"".join(self._kept)
        if self._status in (_UNAUTHORIZED, _FORBIDDEN):
            raise ScannerFailed(f"it answers {self._status}: is api_key right?")
        if self._status != _OK:
            raise ScannerFailed(
                f"it answers {self._status} {printable(body[:200].decode('utf-8', 'replace'))}".rstrip()
            )
        return body
