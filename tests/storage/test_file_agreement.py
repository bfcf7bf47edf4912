"""Two stores that are told the same answer the same: the file store against the reference, whatever happens to them."""

import tempfile

import pytest
import trio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from elemta.runtime.threads import InlineThreads
from elemta.storage import file, file_index, file_journal, file_queue
from elemta.storage.base import QueueStore
from elemta.storage.file import FileStore
from tests.storage.mails import CLOSE_SECONDS
from tests.storage.test_agreement import FAST, Pair


class FilePair(Pair):
    """The reference and the file store, which stands in SQLite's place."""

    def _build(self) -> QueueStore:
        store = FileStore(self._folder, InlineThreads(), self.clock, ids=self._sqlite_ids)
        self.built = [*getattr(self, "built", ()), store]
        return store

    async def close(self) -> None:
        """Those that vanished as well: their descriptors are the process's."""
        for store in self.built:
            await store.close()


# Without `explain`, which repeats a failure a hundred times to say what was not to blame.
@settings(phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
@given(st.data())
async def test_files_agree_with_the_reference(data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir=FAST) as folder:
        # Checkpoints, forgotten mails, steps and tidying come after a few mails instead of thousands.
        patch.setattr(file_journal, "JOURNAL_OCTETS", data.draw(st.sampled_from((4096, 8192, 1 << 20))))
        patch.setattr(file_journal, "DIRTY_FILES", data.draw(st.integers(0, 8)))
        patch.setattr(file_queue, "RECENT_MAILS", data.draw(st.integers(0, 4)))
        patch.setattr(file_queue, "BATCH_MAILS", 2)
        patch.setattr(file, "BATCH_MAILS", 2)
        patch.setattr(file_queue, "STEP_FILES", 2)
        patch.setattr(file, "STEP_FILES", 2)
        patch.setattr(file_index, "STALE_ENTRIES", data.draw(st.integers(0, 3)))
        pair = FilePair(folder, data)
        try:
            await live(pair, data.draw(st.integers(1, 25)))
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await pair.close()


async def live(pair: FilePair, steps: int) -> None:
    await pair.sqlite.open()
    ways = [pair.commit] * 6 + [pair.claim] * 2
    ways += [pair.join, pair.stage, pair.order, pair.cleanup, pair.wait, pair.restart]
    await pair.join()
    for _ in range(steps):
        await pair.pick(ways)()
    await pair.compare()
    await pair.restart()
    await pair.compare()
