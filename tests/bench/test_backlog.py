"""The prepared queues, with what is read of a server that works on one."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
from rich.progress import Progress

from elemta.runtime.clock import SystemClock
from elemta.runtime.threads import WorkerThreads
from elemta.storage.records import QueueState
from elemta.storage.sqlite import SqliteStore
from tests.bench.backlog import cpu_seconds, measure_backlog, measure_once, prepare


def counts(template: Path) -> Mapping[QueueState, int]:
    async def look() -> Mapping[QueueState, int]:
        store = SqliteStore(str(template / "queue"), WorkerThreads(), SystemClock())
        await store.open()
        found = await store.counts()
        await store.close()
        return {state: number for state, number in found.items() if number}

    return trio.run(look)


@pytest.mark.needs("smtp-source")
def test_the_prepared_mails_wait_and_stay_as_they_are(tmp_path: Path) -> None:
    with Progress(disable=True) as progress:
        prepare(tmp_path, 30, progress)
    assert counts(tmp_path) == {QueueState.DEFERRED: 30}
    rate, _ = measure_once(tmp_path, 20)
    assert rate > 0
    assert counts(tmp_path) == {QueueState.DEFERRED: 30}


@pytest.mark.needs("smtp-source")
def test_every_size_has_a_sample_a_round_and_no_folder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DIR", str(tmp_path))
    samples = measure_backlog([0, 10], rounds=2, mails=20)
    assert {key: len(values) for key, values in samples.items()} == {
        ("0", "mails a second"): 2,
        ("0", "CPU ms a mail"): 2,
        ("10", "mails a second"): 2,
        ("10", "CPU ms a mail"): 2,
    }
    assert list(tmp_path.iterdir()) == []


def test_processor_time_is_what_the_process_itself_is_told() -> None:
    while time.process_time() < 0.5:
        pass
    assert cpu_seconds(os.getpid()) == pytest.approx(time.process_time(), abs=0.1)
