"""The records of attempts: files that are appended to, one for each hour.

What is not here: when a record is durable (`file_journal`).

A file is named after the hour in which its records were written, `2026-11-25T09.jsonl`, UTC; each line is one attempt
as JSON, the columns of `codec.ATTEMPT_COLUMNS` by their names. A mail's records lie in files no older than its id,
which begins with the time it was made. Lines that cannot be read are passed over: `inspect` tells of them.
"""

import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import orjson

from elemta.mail.ids import ALPHABET, TIME_CHARACTERS
from elemta.mail.outcome import Attempt
from elemta.storage.codec import ATTEMPT_COLUMNS, AttemptRow, decode_attempt, encode_attempt
from elemta.storage.file_folders import Folder, Folders, OddFile
from elemta.storage.file_record import Append
from elemta.storage.rules import is_older

#: A clock may have stepped back by so much between a mail's coming and its attempt, a day.
CLOCK_SECONDS = 86_400.0
#: An attempt's record is written at most so long after it began: ten minutes for each reply of a dialogue make less.
ATTEMPT_SECONDS = 86_400.0
HOUR_SECONDS = 3600.0
#: Octets that are looked through at once.
PIECE_OCTETS = 1024 * 1024

_NAME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}\.jsonl", re.ASCII)


def made_at(queue_id: str) -> float:
    """When an id was made, UTC in seconds since 1970."""
    milliseconds = 0
    for character in queue_id[:TIME_CHARACTERS]:
        milliseconds = milliseconds * len(ALPHABET) + ALPHABET.index(character)
    return milliseconds / 1000


def hour_name(moment: float) -> str:
    """The file of an hour. Names sort as their hours do."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H") + ".jsonl"


def hour_of(name: str) -> float | None:
    """When the hour of a file began; None for other names."""
    if not _NAME.fullmatch(name):
        return None
    try:
        return datetime.strptime(name, "%Y-%m-%dT%H.jsonl").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def encode_attempts(attempts: Sequence[tuple[str, Attempt]], now: float) -> list[Append]:
    """What is appended for attempts: mails' ids and their records."""
    if not attempts:
        return []
    lines = [
        orjson.dumps(dict(zip(ATTEMPT_COLUMNS, encode_attempt(mail_id, attempt), strict=True))) + b"\n"
        for mail_id, attempt in attempts
    ]
    return [Append(hour_name(now), b"".join(lines))]


class History:
    """The files of attempts. Methods block."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def of(self, queue_id: str) -> list[Attempt]:
        """The attempts of a mail, oldest first."""
        try:
            first = hour_name(max(made_at(queue_id) - CLOCK_SECONDS, 0.0))
        except (ValueError, OverflowError):
            first = ""
        return [
            decode_attempt(row)
            for name in sorted(self._files())
            if name >= first
            for row in self._rows_of(name, queue_id.encode())
        ]

    def _files(self) -> list[str]:
        return [name for name in self._folders.names(Folder.ATTEMPTS) if hour_of(name) is not None]

    def _rows_of(self, name: str, queue_id: bytes) -> Iterator[AttemptRow]:
        for line in self._lines(name):
            if queue_id in line:
                row = row_of(line)
                if row is not None and row[0] == queue_id.decode():
                    yield row

    def _lines(self, name: str) -> Iterator[bytes]:
        try:
            with self._folders.reading((Folder.ATTEMPTS, name)) as (descriptor, _):
                rest = b""
                while piece := os.read(descriptor, PIECE_OCTETS):
                    lines = (rest + piece).split(b"\n")
                    rest = lines.pop()
                    yield from lines
        except (FileNotFoundError, OddFile):
            return

    def damaged(self) -> Iterator[tuple[str, int]]:
        """Files with lines that cannot be read, and how many."""
        for name in sorted(self._files()):
            lines = sum(row_of(line) is None for line in self._lines(name))
            if lines:
                yield name, lines

    def forget(self, before: float) -> None:
        """Remove attempts that began before a moment. The journal must be empty of appends."""
        for name in self._files():
            hour = hour_of(name)
            assert hour is not None
            if hour + HOUR_SECONDS + CLOCK_SECONDS <= before:
                self._folders.unlink((Folder.ATTEMPTS, name))
            elif hour <= before + ATTEMPT_SECONDS:
                self._thin_out(name, before)
        self._folders.sync(Folder.ATTEMPTS)

    def _thin_out(self, name: str, before: float) -> None:
        kept, gone = [], 0
        for line in self._lines(name):
            row = row_of(line)
            if row is not None and is_older(row[1], before):
                gone += 1
            else:
                kept.append(line + b"\n")
        if gone and not kept:
            self._folders.unlink((Folder.ATTEMPTS, name))
        elif gone:
            self._folders.put_synced((Folder.ATTEMPTS, name), b"".join(kept))


def row_of(line: bytes) -> AttemptRow | None:
    """The row of a line; None when it cannot be read."""
    try:
        plain = orjson.loads(line)
        row = tuple([plain[column] for column in ATTEMPT_COLUMNS])
        decode_attempt(row)
    except (ValueError, TypeError, LookupError):
        return None
    return row
