"""clamd's protocol for one scan, without I/O.

What is not here: the connection (`scanners.base`), or what follows from an answer (`scanners.clamav`). clamd(8)
describes the command INSTREAM; with `z` in front, command and answer end with NUL, so that nothing within them can.
Failure raised: `ScannerFailed`.
"""

from attrs import frozen

from elemta.mail.headers import printable
from elemta.plugins.scanners.failure import ScannerFailed

COMMAND = b"zINSTREAM\0"
#: A piece of no octets ends the mail.
END = b"\0\0\0\0"
#: Octets of an answer: the longest are names of signatures, which ClamAV bounds at 1024.
MAX_ANSWER_OCTETS = 4096

_FOUND = " FOUND"
_ERROR = " ERROR"


@frozen
class ClamdAnswer:
    """What clamd found: the name of a signature; None in a clean mail."""

    signature: str | None = None


def piece(octets: bytes) -> bytes:
    """A piece of the mail, at least one octet, as it goes on the wire: its length in four octets, high ones first."""
    return len(octets).to_bytes(4, "big") + octets


class ClamdReader:
    """Reads one answer."""

    def __init__(self) -> None:
        self._octets = b""

    def receive(self, data: bytes) -> ClamdAnswer | None:
        """The answer, once it is whole; `data` is empty at the end of the connection. Raises `ScannerFailed`."""
        self._octets += data
        line, end, more = self._octets.partition(b"\0")
        if len(line) > MAX_ANSWER_OCTETS:
            raise ScannerFailed(f"an answer of more than {MAX_ANSWER_OCTETS} octets")
        if end:
            answer = _parsed(printable(line.decode("utf-8", "replace")))
            if more and answer.signature is None:  # it may be another mail that is clean
                raise ScannerFailed("it says more than it was asked for")
            return answer
        if not data:
            raise ScannerFailed("the connection ended before the answer")
        return None


def _parsed(line: str) -> ClamdAnswer:
    """`stream: OK`, `stream: NAME FOUND`, `… ERROR`."""
    said = line.removeprefix("stream:").strip()
    if said == "OK":
        return ClamdAnswer()
    if line.startswith("stream:") and line.endswith(_FOUND):
        return ClamdAnswer(said.removesuffix(_FOUND.strip()).strip() or "a virus without a name")
    if line.endswith(_ERROR):
        says = f"it says: {said.removesuffix(_ERROR)}"
        # clamd.conf(5): StreamMaxLength. It hangs up, so this answer may be lost on the way.
        raise ScannerFailed(f"{says}; raise its StreamMaxLength, or lower scan_limit" if "size limit" in said else says)
    raise ScannerFailed(f"an answer that cannot be read: {line[:100]!r}")
