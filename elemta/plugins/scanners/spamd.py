"""spamd's protocol for one scan, without I/O.

What is not here: the connection (`scanners.base`), or what follows from an answer (`scanners.spamassassin`). The
protocol is SPAMC/1.5 as the file PROTOCOL of SpamAssassin describes it: a request like HTTP's, the mail, an answer of
the same form. Of its commands only SYMBOLS is used: the score with the names of the rules that met.
Failure raised: `ScannerFailed`.
"""

import math
import re

from attrs import frozen

from elemta.mail.headers import printable
from elemta.plugins.scanners.failure import ScannerFailed

#: Octets of an answer: names of a few hundred rules.
MAX_ANSWER_OCTETS = 64 * 1024
#: EX_OK of sysexits(3), from which spamd takes its codes.
_OK = 0

_NUMBER = r"[+-]?[0-9]+(?:\.[0-9]+)?"
#: `SPAMD/1.1 0 EX_OK`
_STATUS = re.compile(r"SPAMD/[0-9.]+ ([0-9]{1,3}) ?(.*)")
#: `Spam: True ; 1000.0 / 5.0`
_SPAM = re.compile(rf"spam\s*:\s*(true|yes|false|no)\s*;\s*({_NUMBER})\s*/\s*({_NUMBER})\s*", re.IGNORECASE)
_LENGTH = re.compile(r"content-length\s*:\s*([0-9]{1,9})\s*", re.IGNORECASE)


@frozen
class SpamdAnswer:
    """What spamd thinks: whether it is spam, its score, the score from which it is, the rules that met."""

    is_spam: bool
    score: float
    required: float
    symbols: tuple[str, ...] = ()


def request(octets: int) -> bytes:
    """What goes before a mail of so many octets."""
    return b"SYMBOLS SPAMC/1.5\r\nContent-length: %d\r\n\r\n" % octets


class SpamdReader:
    """Reads one answer."""

    def __init__(self) -> None:
        self._octets = b""

    def receive(self, data: bytes) -> SpamdAnswer | None:
        """The answer, once it is whole; `data` is empty at the end of the connection. Raises `ScannerFailed`."""
        self._octets += data
        if len(self._octets) > MAX_ANSWER_OCTETS:
            raise ScannerFailed(f"an answer of more than {MAX_ANSWER_OCTETS} octets")
        head, end, body = self._octets.partition(b"\r\n\r\n")
        if not end:
            _hear_error(head, is_all=not data)
            return None
        lines = _printed(head)
        length = next((int(match[1]) for line in lines if (match := _LENGTH.fullmatch(line))), None)
        _check_status(lines[0])
        if len(body) < length if length is not None else bool(data):
            if not data:
                raise ScannerFailed("the connection ended inside the answer")
            return None
        return _parsed(lines[1:], body if length is None else body[:length])


def _hear_error(head: bytes, *, is_all: bool) -> None:
    """An error is a first line alone: spamd hangs up behind it."""
    if b"\r\n" in head or (is_all and head):
        _check_status(_printed(head)[0])
    if is_all:
        raise ScannerFailed("the connection ended before the answer")


def _printed(head: bytes) -> list[str]:
    """The lines of an answer's head."""
    return [printable(line) for line in head.decode("utf-8", "replace").split("\r\n")]


def _check_status(line: str) -> None:
    match = _STATUS.fullmatch(line)
    if match is None:
        raise ScannerFailed(f"an answer that cannot be read: {line[:100]!r}")
    if int(match[1]) != _OK:
        raise ScannerFailed(f"it says: {match[1]} {match[2][:200]}".rstrip())


def _parsed(lines: list[str], body: bytes) -> SpamdAnswer:
    match = next((found for line in lines if (found := _SPAM.fullmatch(line))), None)
    if match is None:
        raise ScannerFailed("an answer without a score")
    score, required = float(match[2]), float(match[3])
    if not (math.isfinite(score) and math.isfinite(required)):
        raise ScannerFailed("an answer with a score beyond all bounds")
    names = printable(body.decode("utf-8", "replace")).replace(",", " ").split()
    return SpamdAnswer(match[1].lower() in ("true", "yes"), score, required, tuple(names))
