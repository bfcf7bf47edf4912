"""A program that commits to a queue of files until it is stopped, and says what was acknowledged.

`python file_committer.py DIRECTORY SEED [BATCHES]` says the lines of `committer`, and before a mail is settled that
leaves a report behind:

    ~ ID REPORT SIZE    from now on either the mail is in the queue or the report, never both, never neither
"""

import sys
from pathlib import Path

import attrs
import trio

sys.path.append(str(Path(__file__).resolve().parents[2]))

from elemta.runtime.clock import SystemClock
from elemta.runtime.threads import InlineThreads
from elemta.storage import file_journal
from elemta.storage.base import Begin, Insert, Settle
from elemta.storage.file import FileStore
from elemta.storage.file_syncs import SYNC_THREADS
from elemta.storage.records import ContentRef, QueuedMail
from tests.storage.committer import Committer, content_of, say
from tests.storage.mails import START, attempt

#: Checkpoints come each few batches, so that a test meets them.
JOURNAL_OCTETS = 1024 * 1024
REPORT_OCTETS = 700


class FileCommitter(Committer):
    def __init__(self, directory: str, seed: int, *, sync_threads: int) -> None:
        super().__init__(directory, seed)
        self._store = FileStore(directory, InlineThreads(), SystemClock(), sync_threads=sync_threads)

    async def _settle(self) -> None:
        await super()._settle()
        self._chance.shuffle(self._waiting)
        going = [self._waiting.pop() for _ in range(len(self._waiting) // 2)]
        reports = [self._report() for _ in going]
        say([f"~ {mail.id} {report.mail.id} {REPORT_OCTETS}" for mail, report in zip(going, reports, strict=True)])
        await self._store.commit([Begin(mail.id, "one", self._token, START) for mail in going])
        await self._store.commit([self._fail(mail, report) for mail, report in zip(going, reports, strict=True)])
        say([f"- {mail.id}" for mail in going])

    def _fail(self, mail: QueuedMail, report: Insert) -> Settle:
        return Settle(mail.id, "one", self._token, None, (attempt(),), (report,))

    def _report(self) -> Insert:
        queue_id = self._ids.new_id()
        ref = ContentRef(queue_id, REPORT_OCTETS)
        # Beyond the claims' time, so that none of them is tried.
        mail = attrs.evolve(self._plain, id=queue_id, origin_id=queue_id, content=ref, next_attempt_at=START + 1000)
        return Insert(mail, content_of(queue_id, REPORT_OCTETS))


if __name__ == "__main__":
    file_journal.JOURNAL_OCTETS = JOURNAL_OCTETS
    endless = len(sys.argv) == 3
    # Who counts system calls follows one thread.
    committer = FileCommitter(sys.argv[1], int(sys.argv[2]), sync_threads=SYNC_THREADS if endless else 1)
    trio.run(committer.run, 1_000_000 if endless else int(sys.argv[3]))
