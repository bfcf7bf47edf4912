"""The form of the journal's records.

What is not here: when a record is written, or carried out again (`file_journal`).

A journal begins with a line that names its key and its base, the last generation that the files hold already. At
`RECORDS_AT` the records follow, each a line with the key, its generation, two lengths and a checksum; then JSON that
says what is done to which file; then the octets of those files. The key is chance that nobody outside knows: so no mail
can hold what passes for a record, and what an earlier turn left in the file is none.
"""

import re
import zlib
from collections.abc import Iterable, Sequence

import orjson
from attrs import define, frozen

from elemta.storage.file_folders import Folder, Place

#: Where the records begin: a page of their own, so that writing the first line anew touches none.
RECORDS_AT = 4096

_HEADER = re.compile(rb"elemta-journal 1 ([0-9a-f]{32}) ([0-9]{1,18}) ([0-9a-f]{8})\n")
_RECORD = re.compile(rb"elemta-batch ([0-9a-f]{32}) ([0-9]{1,18}) ([0-9]{1,12}) ([0-9]{1,12}) ([0-9a-f]{8})\n")


@frozen
class Write:
    """A file and its octets. `moment` is its mtime, UTC in seconds since 1970. `is_new`: none should stand there."""

    place: Place
    octets: bytes
    moment: float | None = None
    is_new: bool = False


@define
class Append:
    """Octets at the end of a file of attempts. `offset` is where that was when the batch was committed, -1 before."""

    name: str
    octets: bytes
    offset: int = -1


@frozen
class Batch:
    """What is done to files. `contents` are written before the record: where there is no space, nothing happened.

    `has_staged` says that it refers to content whose name is not durable yet.
    """

    contents: Sequence[Write] = ()
    writes: Sequence[Write] = ()
    appends: Sequence[Append] = ()
    removes: Sequence[Place] = ()
    has_staged: bool = False


@frozen
class Header:
    """The first line of a journal."""

    key: str
    base: int

    def encode(self) -> bytes:
        """The line, in octets."""
        line = f"elemta-journal 1 {self.key} {self.base}"
        return f"{line} {zlib.crc32(line.encode()):08x}\n".encode()

    @classmethod
    def parse(cls, octets: bytes) -> "Header | None":
        """The header at the beginning of a file; None when there is none, or not whole."""
        found = _HEADER.match(octets)
        if found is None:
            return None
        header = cls(found[1].decode(), int(found[2]))
        return header if header.encode() == found[0] else None


def encode_record(header: Header, generation: int, batch: Batch) -> bytes:
    """The record of a batch."""
    writes = (*batch.contents, *batch.writes)
    said = orjson.dumps(
        {
            "write": [[each.place[0].value, each.place[1], len(each.octets), each.moment] for each in writes],
            "append": [[each.name, each.offset, len(each.octets)] for each in batch.appends],
            "remove": [[folder.value, name] for folder, name in batch.removes],
        }
    )
    octets = b"".join([*(each.octets for each in writes), *(each.octets for each in batch.appends)])
    check = zlib.crc32(octets, zlib.crc32(said))
    line = f"elemta-batch {header.key} {generation} {len(said)} {len(octets)} {check:08x}\n"
    return b"".join((line.encode(), said, octets))


def read_records(octets: bytes, header: Header) -> tuple[list[tuple[int, Batch]], int]:
    """The whole records of a journal in order, with their generations, and where they end: with the first that is not
    whole, not of this turn, or not newer than the one before."""
    records: list[tuple[int, Batch]] = []
    end, last = RECORDS_AT, header.base
    while (found := _RECORD.match(octets, end)) is not None and found[1].decode() == header.key:
        generation, said, size = int(found[2]), int(found[3]), int(found[4])
        begin = found.end()
        at = begin + said + size
        if generation <= last or at > len(octets) or zlib.crc32(octets[begin:at]) != int(found[5], 16):
            break
        last, end = generation, at
        records.append((generation, _decode(octets[begin : begin + said], octets[begin + said : at])))
    return records, end


def _decode(said: bytes, octets: bytes) -> Batch:
    plain = orjson.loads(said)
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        at += size
        return octets[at - size : at]

    writes = [Write((Folder(folder), name), take(size), moment) for folder, name, size, moment in plain["write"]]
    appends = [Append(name, take(size), offset) for name, offset, size in plain["append"]]
    return Batch(writes=writes, appends=appends, removes=_places(plain["remove"]))


def _places(plain: Iterable[tuple[str, str]]) -> list[Place]:
    return [(Folder(folder), name) for folder, name in plain]
