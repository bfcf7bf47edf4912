"""What makes a batch durable: a record of every file that it writes, appends to, or removes.

What is not here: what the files hold (`file_queue`), or the form of a record (`file_record`).

A batch is one record at the end of the journal, one write and one sync. Then the files are changed, without a sync;
what cannot be changed at once is remembered and tried again. When the journal is full, or many files wait for it, a
checkpoint syncs each file that was written since and still stands, then each folder that was touched, once; then the
journal begins anew. After a crash the records since the last checkpoint are carried out again, whatever of them the
disk had seen. A mail that comes and goes between two checkpoints costs no sync of its own.

Two files take turns as the journal, preallocated: so a batch needs no space, and a full disk can be worked off. The one
with the greater base counts; what an earlier turn left behind its records does not bear its key.

After a failed sync nothing is synced a second time to see whether it works now. The files are synced and a journal of a
new name begins with a greater base, so that the failed record is known to be nowhere: `StoreUnavailable`. When that
fails too, nobody knows (`CommitUnknown`), and it is tried before the next batch. A file whose sync fails is written
anew under a new name.
"""

import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress

from elemta.storage.base import CommitUnknown, StoreFull, StoreUnavailable
from elemta.storage.file_errors import explain, is_full
from elemta.storage.file_folders import Folder, Folders, OddFile, Place, write_all
from elemta.storage.file_record import RECORDS_AT, Append, Batch, Header, Write, encode_record, read_records
from elemta.storage.file_syncs import SYNC_THREADS, sync_files

#: Octets of the journal: a checkpoint each 6,000 mails of 4 KiB, and a second to carry it out again after a crash.
JOURNAL_OCTETS = 32 * 1024 * 1024
#: On a small file system the journal takes at most one part in so many.
SMALL_PART = 16
#: Files that may wait for a checkpoint, which syncs each: 20 to 50 ms that one batch waits for.
DIRTY_FILES = 512

_NAME = re.compile(r"[0-9]{1,18}-[0-9a-f]{8}\.log")
#: Stands for a file that is no journal, or none yet.
_NO_HEADER = Header("", -1)


def is_journal(name: str) -> bool:
    """True for the names that journals have."""
    return _NAME.fullmatch(name) is not None


class Journal:
    """Changes files durably. Methods block, and are called in one thread at a time."""

    def __init__(self, folders: Folders, *, sync_threads: int = SYNC_THREADS) -> None:
        self._folders = folders
        self._sync_threads = sync_threads
        self._header = _NO_HEADER
        self._name = ""
        self._spare = ""
        self._descriptor = -1
        self._position = RECORDS_AT
        #: The last batch's number, whatever became of it.
        self.generation = 0
        #: True when no journal was found: the queue is new, or somebody removed it.
        self.is_new = False
        #: Files written since the last checkpoint, and folders whose names changed.
        self._dirty: dict[Place, None] = {}
        self._touched: set[Folder] = set()
        #: What a durable batch still has to do, None to remove; and why it could not.
        self._undone: dict[Place, Write | None] = {}
        self._unappended: list[Append] = []
        self._trouble: OSError | None = None
        #: Octets of the files that are appended to.
        self._lengths: dict[str, int] = {}
        self._is_doubted = False

    # ---- opening -------------------------------------------------------------------------------

    def open(self) -> None:
        """Find the journal, carry it out again, begin a new one. Raises `OSError`, `StoreUnavailable`."""
        self._find()
        records, self._position = ([], RECORDS_AT) if self.is_new else self._read_records()
        self.generation = records[-1][0] if records else max(self._header.base, 0)
        self._carry_out_again([batch for _, batch in records])
        if self._undone and self._trouble is not None:
            raise self._trouble
        if self._trouble is None:
            self.checkpoint()
        if not self._spare:
            self._make_spare()

    def _read_records(self) -> tuple[list[tuple[int, Batch]], int]:
        with self._folders.reading((Folder.JOURNAL, self._name)) as (descriptor, size):
            return read_records(os.pread(descriptor, size, 0), self._header)

    def _find(self) -> None:
        """The journal with the greatest base counts; one other is its spare, more are removed."""
        found: list[tuple[Header, str]] = []
        for name in filter(_NAME.fullmatch, self._folders.names(Folder.JOURNAL)):
            with suppress(OddFile), self._folders.reading((Folder.JOURNAL, name)) as (descriptor, _):
                found.append((Header.parse(os.pread(descriptor, RECORDS_AT, 0)) or _NO_HEADER, name))
        found.sort(key=lambda each: each[0].base)
        self._header, self._name = found.pop() if found and found[-1][0] is not _NO_HEADER else (_NO_HEADER, "")
        self.is_new = not self._name
        if not self.is_new:
            self._take_descriptor(self._open(self._name))
        self._spare = found.pop()[1] if found else ""
        for _, name in found:
            self._folders.unlink((Folder.JOURNAL, name))

    def _open(self, name: str) -> int:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=self._folders.descriptor(Folder.JOURNAL))

    def _carry_out_again(self, batches: Iterable[Batch]) -> None:
        last: dict[Place, Write | None] = {}
        for batch in batches:
            last |= {write.place: write for write in (*batch.contents, *batch.writes)}
            last |= dict.fromkeys(batch.removes)
            self._append(batch.appends)
        for place, write in last.items():
            if write is not None and self._stands(write):
                self._dirty[place] = None
                self._touched.add(place[0])
            else:
                self._change(place, write)
        self._catch_up()

    def _stands(self, write: Write) -> bool:
        try:
            return self._folders.read(write.place) == write.octets
        except (OSError, OddFile):
            return False

    def close(self) -> None:
        """Let go; more than once is no failure. What is committed is durable already.

        A checkpoint leaves nothing to be carried out again, so that a person may change the files. It is left out when
        another store opened the folders meanwhile: then they are its own.
        """
        if self._descriptor >= 0 and self._is_ours():
            with suppress(StoreUnavailable):
                self.checkpoint()
        self._take_descriptor(-1)

    def _is_ours(self) -> bool:
        try:
            return Header.parse(os.pread(self._descriptor, RECORDS_AT, 0)) == self._header
        except OSError:
            return False

    def _take_descriptor(self, descriptor: int) -> None:
        old, self._descriptor = self._descriptor, descriptor
        if old >= 0:
            os.close(old)

    # ---- batches -------------------------------------------------------------------------------

    @property
    def trouble(self) -> OSError | None:
        """Why files are behind what is durable; None when they are not."""
        return self._trouble

    def ready(self) -> None:
        """Do what is left to do. Raises `StoreUnavailable` while nobody knows what became of a batch."""
        if self._is_doubted and not self._resolve():
            raise StoreUnavailable(f"the disk under {self._folders.directory} still fails: look into the system's log")
        self._catch_up()

    def commit(self, batch: Batch) -> None:
        """Make the next generation durable, then change its files.

        Raises `StoreUnavailable`, `StoreFull`: nothing happened; `CommitUnknown`.
        """
        self.ready()
        if self._position > self._most_octets() or len(self._dirty) > DIRTY_FILES:
            # Without space for what is behind, mail must still go out: the journal grows.
            with suppress(StoreFull):
                self.checkpoint()
        self.generation += 1
        written: list[Place] = []
        try:
            for write in batch.contents:
                self._folders.put(write.place, write.octets)
                written.append(write.place)
            if batch.has_staged:
                self._folders.sync(Folder.DATA)
            record = encode_record(self._header, self.generation, self._with_offsets(batch))
            os.lseek(self._descriptor, self._position, os.SEEK_SET)
            write_all(self._descriptor, record)
        except OSError as error:
            self._undo(batch, written)
            raise explain(error, self._folders.directory) from error
        self._sync_record(batch, written)
        self._position += len(record)
        self._dirty.update(dict.fromkeys(written))
        self._touched.add(Folder.DATA)
        self._carry_out(batch)

    def _sync_record(self, batch: Batch, written: list[Place]) -> None:
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._undo(batch, written)
            self._is_doubted = True
            explained = explain(error, self._folders.directory)
            raise explained if self._resolve() else CommitUnknown(str(explained)) from error

    def _undo(self, batch: Batch, written: list[Place]) -> None:
        for append in reversed(batch.appends):
            if append.offset >= 0:
                self._lengths[append.name] = append.offset
        for place in written:
            with suppress(OSError):
                self._folders.remove(place)

    def _with_offsets(self, batch: Batch) -> Batch:
        for append in batch.appends:
            length = self._lengths.get(append.name)
            if length is None:
                try:
                    length = self._folders.size((Folder.ATTEMPTS, append.name))
                except FileNotFoundError:
                    length = 0
            append.offset = length
            self._lengths[append.name] = length + len(append.octets)
        return batch

    # ---- files ---------------------------------------------------------------------------------

    def read(self, place: Place) -> bytes:
        """A file as the last batch left it. Raises `OSError`, `OddFile`."""
        if place in self._undone:
            write = self._undone[place]
            if write is None:
                raise FileNotFoundError(place[1])
            return write.octets
        return self._folders.read(place)

    def _carry_out(self, batch: Batch) -> None:
        for write in batch.writes:
            self._change(write.place, write)
        self._append(batch.appends)
        for place in batch.removes:
            self._change(place, None)

    def _change(self, place: Place, write: Write | None) -> None:
        """Write a file, or remove it; when it cannot be done now, it is done later."""
        self._touched.add(place[0])
        try:
            if write is not None:
                self._folders.put(place, write.octets, moment=write.moment, replaces=not write.is_new)
                self._dirty[place] = None
            else:
                self._dirty.pop(place, None)
                with suppress(FileNotFoundError):
                    self._folders.remove(place)
        except OSError as error:
            self._undone[place] = write
            self._trouble = error
        else:
            self._undone.pop(place, None)

    def _append(self, appends: Iterable[Append]) -> None:
        for append in appends:
            self._touched.add(Folder.ATTEMPTS)
            try:
                self._write_at(append)
                self._dirty[Folder.ATTEMPTS, append.name] = None
            except OSError as error:
                self._unappended.append(append)
                self._trouble = error

    def _write_at(self, append: Append) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(append.name, flags, 0o600, dir_fd=self._folders.descriptor(Folder.ATTEMPTS))
        try:
            os.lseek(descriptor, append.offset, os.SEEK_SET)
            write_all(descriptor, append.octets)
        finally:
            os.close(descriptor)

    def _catch_up(self) -> None:
        if self._trouble is None:
            return
        if is_full(self._trouble):
            self._folders.drop_spares()
        self._trouble = None
        unappended, self._unappended = self._unappended, []
        self._append(unappended)
        for place, write in list(self._undone.items()):
            self._change(place, write)

    # ---- checkpoints ---------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Make every file durable, then begin the journal anew. Raises `StoreUnavailable`."""
        self._catch_up()
        if self._name and self._position == RECORDS_AT and not self._is_doubted and not self._dirty:
            return
        try:
            if self._trouble is not None:
                raise self._trouble
            for place, error in sync_files(self._folders, list(self._dirty), self._sync_threads):
                self._write_anew(place, error)
            for folder in self._touched:
                self._folders.sync(folder)
            self._dirty.clear()
            self._touched.clear()
            self._begin()
        except OSError as error:
            raise explain(error, self._folders.directory) from error
        self._lengths.clear()
        self._is_doubted = False

    def _write_anew(self, place: Place, error: OSError) -> None:
        """A file whose sync failed: what it holds goes into another, which takes its place once it is synced."""
        if is_full(error):
            raise error
        with self._folders.reading(place) as (descriptor, size):
            octets, moment = os.pread(descriptor, size, 0), os.fstat(descriptor).st_mtime
        self._folders.put_synced(place, octets, moment=moment)
        self._touched.add(place[0])

    def _resolve(self) -> bool:
        """After a failed sync: True when its record is known to be nowhere."""
        try:
            self.checkpoint()
        except StoreUnavailable:
            return False
        return True

    def _begin(self) -> None:
        """Begin a journal whose base is the last generation: everything up to it lies in the files."""
        header = Header(secrets.token_hex(16), self.generation)
        name = "" if self._is_doubted else self._spare
        if not name:
            name = self._create()
        descriptor = self._open(name)
        try:
            write_all(descriptor, header.encode())
            os.fdatasync(descriptor)
            self._folders.sync(Folder.JOURNAL)
        except BaseException:
            os.close(descriptor)
            raise
        if self._descriptor >= 0:
            # One journal alone should pass for one. When this does not reach the disk, the greater base decides.
            with suppress(OSError):
                os.pwrite(self._descriptor, bytes(RECORDS_AT), 0)
        self._take_descriptor(descriptor)
        self._spare, self._name, self._header = self._name, name, header
        self._position = RECORDS_AT
        if self._is_doubted:
            self._remove_doubted()

    def _remove_doubted(self) -> None:
        """The other journals end here: their base is smaller, so that it does not matter when they are gone."""
        for name in self._folders.names(Folder.JOURNAL):
            if name != self._name:
                with suppress(OSError):
                    self._folders.unlink((Folder.JOURNAL, name))
        self._spare = ""

    def _make_spare(self) -> None:
        with suppress(OSError):
            self._spare = self._create()
            self._folders.sync(Folder.JOURNAL)

    def _create(self) -> str:
        """A preallocated file, as far as there is space."""
        name = f"{self.generation}-{secrets.token_hex(4)}.log"
        descriptor = self._folders.create((Folder.JOURNAL, name))
        try:
            os.posix_fallocate(descriptor, 0, self._most_octets())
        except OSError as error:
            if not is_full(error):
                raise
        finally:
            os.close(descriptor)
        return name

    def _most_octets(self) -> int:
        found = os.fstatvfs(self._folders.descriptor(Folder.ROOT))
        return min(JOURNAL_OCTETS, found.f_blocks * found.f_frsize // SMALL_PART)
