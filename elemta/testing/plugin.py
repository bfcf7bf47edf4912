"""A pytest plugin for authors of plugins, for our own tests.

What is not here: what a world is made of (`simulation.scenario`), or what must hold in it (`testing.invariants`).
Use it with `pytest_plugins = ["elemta.testing.plugin"]` in the top conftest, or import its fixtures into one.
"""

from pathlib import Path

import pytest

from elemta.simulation.fleet import draw_world
from elemta.simulation.keeper import memory_keeper, sqlite_keeper
from elemta.simulation.record import Record
from elemta.simulation.scenario import Scenario
from elemta.simulation.world import simulate
from elemta.testing.campaign import WorldBroken, repro
from elemta.testing.invariants import broken


class SimulatedWorld:
    """Runs worlds, and fails the test when one does not keep what the server promises."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs = 0

    def __call__(self, world: Scenario | int, store: str = "memory") -> Record:
        """Run a scenario, or the one of a seed, on a new store: `memory` or `sqlite`.

        Returns what happened. Raises `WorldBroken`, with the line that repeats a seed.
        """
        scenario = draw_world(world, store) if isinstance(world, int) else world
        self._runs += 1
        keeper = memory_keeper() if store == "memory" else sqlite_keeper(str(self._folder / f"queue-{self._runs}"))
        record = simulate(scenario, keeper)
        found = broken(scenario, record)
        if found:
            again = [repro(world, store)] if isinstance(world, int) else record.events[-60:]
            raise WorldBroken("\n".join([f"seed {scenario.seed} on {store}:", *found, *again]))
        return record


@pytest.fixture
def simulated_world(tmp_path: Path) -> SimulatedWorld:
    """A function that runs a simulated world and checks every invariant after it; see `SimulatedWorld`."""
    return SimulatedWorld(tmp_path)
