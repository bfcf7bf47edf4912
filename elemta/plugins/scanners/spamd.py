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
_LENGTH = re.compile(r"content-length\s*:\s*(.*?)\s*", re.IGNORECASE)
#: Digits of a length: more than any answer has.
_LENGTH_DIGITS = 9


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
    """Reads one answer. The head is taken apart once, however many pieces the rest comes in."""

    def __init__(self) -> None:
        self._octets = bytearray()
        self._is_ok = False
        #: Behind the first line, once the head is there.
        self._lines: list[str] | None = None
        self._body_at = 0
        self._length: int | None = None

    def receive(self, data: bytes) -> SpamdAnswer | None:
        """The answer, once it is whole; `data` is empty at the end of the connection. Raises `ScannerFailed`."""
        self._octets += data
        if len(self._octets) > MAX_ANSWER_OCTETS:
            raise ScannerFailed(f"an answer of more than {MAX_ANSWER_OCTETS} octets")
        is_all = not data
        if not self._is_ok:
            self._read_status(is_all=is_all)
        if self._lines is None:
            self._read_head()
        if self._lines is None:
            if is_all:
                raise ScannerFailed("the connection ended before the answer")
            return None
        return self._answer(self._lines, is_all=is_all)

    def _read_status(self, *, is_all: bool) -> None:
        """An error is a first line alone: spamd hangs up behind it."""
        end = self._octets.find(b"\r\n")
        if end >= 0 or (is_all and self._octets):
            _check_status(_printed(self._octets[: end if end >= 0 else None])[0])
            self._is_ok = True

    def _read_head(self) -> None:
        end = self._octets.find(b"\r\n\r\n")
        if end >= 0:
            self._lines = _printed(self._octets[:end])[1:]
            self._length = _length(self._lines)
            self._body_at = end + 4

    def _answer(self, lines: list[str], *, is_all: bool) -> SpamdAnswer | None:
        there, length = len(self._octets) - self._body_at, self._length
        if is_all if length is None else there >= length:
            end = None if length is None else self._body_at + length
            return _parsed(lines, bytes(self._octets[self._body_at : end]))
        if is_all:
            raise ScannerFailed("the connection ended inside the answer")
        return None


def _printed(head: bytes | bytearray) -> list[str]:
    """The lines of an answer's head."""
    return [printable(line) for line in head.decode("utf-8", "replace").split("\r\n")]


def _check_status(line: str) -> None:
    match = _STATUS.fullmatch(line)
    if match is None:
        raise ScannerFailed(f"an answer that cannot be read: {line[:100]!r}")
    if int(match[1]) != _OK:
        raise ScannerFailed(f"it says: {match[1]} {match[2][:200]}".rstrip())


def _length(lines: list[str]) -> int | None:
    """Octets of the body, None where nobody says how many."""
    said = next((match[1] for line in lines if (match := _LENGTH.fullmatch(line))), None)
    if said is None:
        return None
    if not said.isascii() or not said.isdecimal() or len(said) > _LENGTH_DIGITS:
        raise ScannerFailed(f"an answer whose length cannot be read: {said[:100]!r}")
    return int(said)


def _parsed(lines: list[str], body: bytes) -> SpamdAnswer:
    match = next((found for line in lines if (found := _SPAM.fullmatch(line))), None)
    if match is None:
        raise ScannerFailed("an answer without a score")
    score, required = float(match[2]), float(match[3])
    if not (math.isfinite(score) and math.isfinite(required)):
        raise ScannerFailed("an answer with a score beyond all bounds")
    names = printable(body.decode("utf-8", "replace")).replace(",", " ").split()
    return SpamdAnswer(match[1].lower() in ("true", "yes"), score, required, tuple(names))
