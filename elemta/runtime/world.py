"""What the outside gives to the server, in one bundle.

What is not here: the network and the resolver, which have Protocols of their own (`net`, `resolver`).
"""

import random

from attrs import frozen

from elemta.runtime.clock import Clock, SystemClock
from elemta.runtime.ids import IdSource, SecureIds
from elemta.runtime.threads import Threads, WorkerThreads


@frozen
class Runtime:
    """Time, chance, ids, threads. `chance` jitters schedules; it is never used for anything secret."""

    clock: Clock
    threads: Threads
    ids: IdSource
    chance: random.Random


def system_runtime() -> Runtime:
    """The real world."""
    clock = SystemClock()
    return Runtime(clock=clock, threads=WorkerThreads(), ids=SecureIds(clock), chance=random.Random())
