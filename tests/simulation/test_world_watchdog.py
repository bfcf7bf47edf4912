"""A world that is stuck ends with its tree of tasks, in real time."""

import itertools

import pytest
import trio

from elemta.simulation.clock import run_virtual
from elemta.simulation.watchdog import Stuck, watching


async def spin_for_ever() -> None:
    for _ in itertools.count():
        await trio.lowlevel.checkpoint()


def test_a_world_without_progress_is_ended(capfd: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        with trio.CancelScope() as scope:
            with watching(lambda: 1, scope.cancel, seconds=0.2):
                await spin_for_ever()

    with pytest.raises(Stuck, match="spin_for_ever"):
        run_virtual(run, seed=1)
    assert "spin_for_ever" in capfd.readouterr().err


def test_a_world_that_goes_on_is_left_alone() -> None:
    events: list[int] = []

    async def run() -> str:
        with watching(lambda: len(events), lambda: None, seconds=30):
            for number in range(100):
                events.append(number)
                await trio.sleep(86_400)
        return "done"

    assert run_virtual(run, seed=1) == "done"
