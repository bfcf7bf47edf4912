"""A pytest plugin for authors of plugins, for our own tests.

What is not here: what a world is made of (`simulation.scenario`), what must hold in it (`testing.invariants`), the
bench for plugins (`testing.plugins`). Use it with `pytest_plugins = ["elemta.testing.plugin"]` in a test module or in
the top conftest, or import its fixtures into one.
"""

import inspect
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from elemta.simulation.fleet import draw_world
from elemta.simulation.keeper import memory_keeper, sqlite_keeper
from elemta.simulation.record import Record
from elemta.simulation.scenario import Scenario
from elemta.simulation.world import simulate
from elemta.testing.campaign import WorldBroken, repro
from elemta.testing.invariants import broken
from elemta.testing.plugins import MakeBench, bench_of


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


@pytest.fixture
def plugin_bench() -> MakeBench:
    """Makes benches: `async with plugin_bench(NoInvoices) as bench:`, see `testing.plugins`. A test that has it may be
    `async def`, and runs in virtual time."""
    return bench_of


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine function with a bench under Trio, on the clock among its arguments or one that jumps."""
    names = pyfuncitem._fixtureinfo.argnames
    if not inspect.iscoroutinefunction(pyfuncitem.obj) or "plugin_bench" not in names:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    given = next((one for one in arguments.values() if isinstance(one, trio.abc.Clock)), None)
    clock = given or trio.testing.MockClock(autojump_threshold=0)
    trio.run(partial(pyfuncitem.obj, **arguments), clock=clock)
    return True
