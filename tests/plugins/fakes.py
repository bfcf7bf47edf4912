"""What tests of the chain share: plugins that no loader would take, its log, a subject that takes changes.

Tests of one plugin use `elemta.testing.plugins`.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio
from structlog.testing import LogCapture

from elemta.mail.address import Address
from elemta.observe.metrics import Metrics
from elemta.plugins.api import OnError, Plugin
from elemta.plugins.chain import Chain, Member
from elemta.plugins.mail import MailInHand
from elemta.plugins.tasks import TaskKeeper
from elemta.runtime.threads import InlineThreads, Threads
from elemta.testing.plugins import SESSION

__all__ = ["SESSION", "Bench", "PlainHost", "a_mail", "chain_of"]


class PlainHost:
    """A host that has threads and nothing else."""

    def __init__(self, threads: Threads) -> None:
        self.threads = threads


def a_mail(queue_id: str = "q1", **options: Any) -> MailInHand:
    """One whose header is there: an empty one."""
    mail = MailInHand(queue_id, SESSION, Address("s", "example.org"), **options)
    mail.header_came(b"")
    return mail


class Bench:
    """A chain with its log and its metrics."""

    def __init__(
        self, plugins: Sequence[type[Plugin]], *, on_error: OnError | None = None, deadline: float = 10
    ) -> None:
        self.capture = LogCapture()
        self.metrics = Metrics()
        log = structlog.wrap_logger(None, processors=[self.capture])
        host: Any = PlainHost(InlineThreads())
        members = [
            Member(
                name=one.__name__.lower(),
                plugin=one(host),
                priority=one.priority,
                deadline=deadline,
                on_error=on_error or one.on_error,
            )
            for one in plugins
        ]
        self.chain = Chain(members, log=log, metrics=self.metrics)
        self.keeper = TaskKeeper(log)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [dict(entry) for entry in self.capture.entries if entry["event"] == name]


@asynccontextmanager
async def chain_of(*plugins: type[Plugin], **options: Any) -> AsyncIterator[Bench]:
    """A chain that runs for the block."""
    bench = Bench(plugins, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.keeper.run)
        await nursery.start(bench.chain.run)
        yield bench
        nursery.cancel_scope.cancel()
