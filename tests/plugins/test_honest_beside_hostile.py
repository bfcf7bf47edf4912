"""Mails that make a plugin misbehave, beside honest ones: these must not be the slower for it."""

import statistics
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from math import ceil
from typing import ClassVar

import pytest
import trio

from elemta.inbound.plugged import Plugins
from elemta.plugins.api import CONTINUE, AddHeader, Annotate, Continue, Mail, Plugin, Verdict
from elemta.plugins.breaker import FAILURES_TO_OPEN
from elemta.runtime.threads import WorkerThreads
from tests.inbound.world import World
from tests.plugins.fakes import Bench, PlainHost, chain_of
from tests.plugins.test_chain import AT_ONCE, LATE, Forgetting

#: Seconds that the honest plugin takes for each mail.
WORK_SECONDS = 1.0
HONEST, HOSTILE = 40, 20
#: How much slower the slowest honest mails may be.
MOST_SLOWER = 2.0


class Flooding(Plugin):
    """Starts tasks until it may not, and then raises."""

    async def on_data_complete(self, mail: Mail) -> Verdict:
        while True:
            mail.start_soon(trio.sleep_forever)


class Bloating(Plugin):
    """Asks for more than a mail may have."""

    async def on_data_complete(self, mail: Mail) -> Verdict:
        return Continue([AddHeader("X-More", "x" * 900)] * 1999 + [Annotate(f"k{n}", "x" * 9999) for n in range(99)])


KINDS = [*(kind for kind in AT_ONCE if kind is not Forgetting), *LATE, Flooding, Bloating]


class Working(Plugin):
    """The honest one, asked behind the other."""

    priority = 0

    async def on_data_complete(self, mail: Mail) -> Verdict:
        await trio.sleep(WORK_SECONDS)
        return CONTINUE


def provoked(kind: type[Plugin]) -> type[Plugin]:
    """Misbehaves as `kind` does, when the subject says so."""

    class Provoked(Plugin):
        priority = 75

        async def on_data_complete(self, mail: Mail) -> Verdict:
            if mail.headers.text("Subject") == "hostile":
                return await kind.on_data_complete(self, mail)
            return CONTINUE

    return Provoked


@asynccontextmanager
async def serving(bench: Bench) -> AsyncIterator[World]:
    world = World(plugins=Plugins(bench.chain, bench.keeper))
    async with trio.open_nursery() as nursery:
        await nursery.start(world.service.run)
        yield world
        nursery.cancel_scope.cancel()


async def seconds_of_mails(world: World, *, hostile: int) -> list[float]:
    """How long each honest mail took from DATA to its reply, beside so many hostile ones."""
    took: list[float] = []

    async def bring(subject: str, number: int) -> None:
        client = world.connect(f"127.0.{subject == 'hostile':d}.{number + 1}")
        await client.begin()
        started = trio.current_time()
        reply = await client.send(b"Subject: %s\r\n\r\nbody\r\n" % subject.encode())
        if subject == "honest":
            assert reply.startswith("250")
            took.append(trio.current_time() - started)
            # The hostile ones may take as long as they like.
            if len(took) == HONEST:
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for number in range(hostile):
            nursery.start_soon(bring, "hostile", number)
        for number in range(HONEST):
            nursery.start_soon(bring, "honest", number)
    assert len(took) == HONEST
    return took


def slowest(took: list[float]) -> float:
    """The 95th percentile."""
    return sorted(took)[ceil(0.95 * len(took)) - 1]


def failures(bench: Bench) -> float:
    return bench.metrics.registry.get_sample_value("elemta_plugin_failures_total", {"plugin": "provoked"}) or 0


@pytest.mark.parametrize("kind", KINDS)
async def test_honest_mails_take_what_they_took(kind: type[Plugin], autojump_clock: object) -> None:
    async with chain_of(provoked(kind), Working) as bench, serving(bench) as world:
        normal = await seconds_of_mails(world, hostile=0)
        assert failures(bench) == 0
        beside = await seconds_of_mails(world, hostile=HOSTILE)
    assert slowest(normal) >= WORK_SECONDS
    assert slowest(beside) <= MOST_SLOWER * slowest(normal)
    assert kind in LATE or failures(bench) >= FAILURES_TO_OPEN, "it was provoked"


# ---- on the real clock ---------------------------------------------------------------------------


class Spinning(Plugin):
    """Works for ever, and lets others work in between."""

    async def on_data_complete(self, mail: Mail) -> Verdict:
        for _ in count():
            await trio.lowlevel.checkpoint()
        return CONTINUE


class Quick(Working):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        await trio.sleep(0.1)
        return CONTINUE


class HangingInThreads(Plugin):
    """Blocks where it may: in its thread. Fewer than it has, so that the others have some left."""

    blocking = True
    priority = 75
    let_go: ClassVar[threading.Event]

    def on_data_complete(self, mail: Mail) -> Verdict:  # type: ignore[override]  # blocking
        if mail.headers.text("Subject") == "hostile":
            self.let_go.wait(60)
        else:
            self.let_go.wait(0.005)
        return CONTINUE


def with_threads(plugin: type[Plugin]) -> type[Plugin]:
    class Threaded(plugin):  # type: ignore[misc, valid-type]  # a class is a value here
        def __init__(self, host: object) -> None:
            super().__init__(PlainHost(WorkerThreads()))

    return Threaded


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "hostile"), [(lambda: provoked(Spinning), 5), (lambda: with_threads(HangingInThreads), 3)]
)
async def test_what_takes_real_time_is_no_neighbours_either(make: Callable[[], type[Plugin]], hostile: int) -> None:
    HangingInThreads.let_go = threading.Event()
    try:
        async with chain_of(make(), Quick, deadline=30) as bench, serving(bench) as world:
            normal = await seconds_of_mails(world, hostile=0)
            beside = await seconds_of_mails(world, hostile=hostile)
    finally:
        HangingInThreads.let_go.set()
    assert statistics.median(normal) >= 0.1
    assert slowest(beside) <= MOST_SLOWER * slowest(normal)
