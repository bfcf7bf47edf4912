"""Whole worlds, one a seed, on each store."""

import pytest

from elemta.testing.plugin import SimulatedWorld

#: The seeds of every run, every third one a fleet on the memory store; `python -m elemta.simulation` runs any others.
SEEDS = range(140)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_world_keeps_every_promise(seed: int, store: str, simulated_world: SimulatedWorld) -> None:
    record = simulated_world(seed, store)
    assert record.submitted
