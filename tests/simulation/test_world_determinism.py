"""A seed is a history: the same one every time, in every process."""

import os
import subprocess
import sys

import pytest

from elemta.testing.plugin import SimulatedWorld

#: Seeds whose worlds hold crashes, faults of the store, long mails, retries of days; 3 and 86 (a fleet) speak TLS, 83
#: (a fleet) has reloads.
SEEDS = (3, 6, 12, 83, 86)

PROGRAM = """
import sys
from elemta.testing.campaign import check_seed
print(*(check_seed(int(seed), store).history_hash for seed in sys.argv[1:] for store in ("memory", "sqlite")))
"""


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_seed_is_the_same_history(seed: int, store: str, simulated_world: SimulatedWorld) -> None:
    first, second = simulated_world(seed, store), simulated_world(seed, store)
    assert first.events == second.events
    assert first.history_hash == second.history_hash


def test_another_seed_is_another_history(simulated_world: SimulatedWorld) -> None:
    assert simulated_world(3).history_hash != simulated_world(4).history_hash


def hashes(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, SEEDS)], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_history_does_not_depend_on_the_process() -> None:
    assert hashes("0") == hashes("1") == hashes("4242")
