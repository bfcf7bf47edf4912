"""What plugins that do nothing cost a session by themselves: microseconds of a mail, with five of them and without.

Run: `python -m tests.bench.bench_plugged`. One session over a stream that has its answers ready, a queue that forgets;
no sockets, no store. The processor time of the best of some repetitions counts, since whatever else runs on the machine
can only make it slower.
"""

import argparse
import time
from typing import Any

import structlog
import trio
from attrs import evolve

from elemta.config.sections import LimitsSection
from elemta.inbound.options import ListenerOptions
from elemta.inbound.plugged import Plugins
from elemta.inbound.service import InboundService
from elemta.net.base import Endpoint, Stream
from elemta.plugins.api import CONTINUE, Continue, Mail, OnError, Plugin, Session
from elemta.plugins.chain import Chain, Member
from elemta.plugins.tasks import TaskKeeper
from elemta.queue.submission import Submission
from elemta.runtime.threads import InlineThreads
from tests.inbound.world import OPTIONS, Queue, World
from tests.plugins.fakes import PlainHost

#: As many as the promise speaks of.
PLUGINS = 5
#: Mails of one repetition.
MAILS = 500
_BODY = b"From: <a@example.com>\r\nSubject: bench\r\n\r\n" + b"x" * 72 + b"\r\n.\r\n"
_STEPS = (b"MAIL FROM:<s@example.org>\r\n", b"RCPT TO:<r@example.net>\r\n", b"DATA\r\n", _BODY)


class DoesNothing(Plugin):
    """Hooks as in `tests.bench.plugged`."""

    async def on_connect(self, session: Session) -> Continue:
        return CONTINUE

    async def on_mail_from(self, mail: Mail) -> Continue:
        return CONTINUE

    async def on_rcpt_to(self, mail: Mail, recipient: object) -> Continue:
        return CONTINUE

    async def on_data_complete(self, mail: Mail) -> Continue:
        return CONTINUE


class Forgetful(Queue):
    """Takes every mail, and counts them alone."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    async def submit(self, submission: Submission, *, timeout: float) -> None:  # noqa: ASYNC109  # the Protocol's
        self.taken += 1


class Ready(Stream):
    """A client that has said everything: some mails, step by step."""

    def __init__(self, mails: int) -> None:
        self.local, self.peer = Endpoint("192.0.2.25", 25), Endpoint("127.0.0.1", 40_000)
        self._left = iter([b"EHLO client.example\r\n", *(_STEPS * mails), b"QUIT\r\n"])

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return next(self._left, b"")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        pass

    async def wait_send_all_might_not_block(self) -> None:
        pass

    async def send_eof(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def abort(self) -> None:
        pass


async def seconds(plugins: int) -> float:
    """What `MAILS` mails of one session take."""
    world, queue = World(), Forgetful()
    log = structlog.wrap_logger(None, processors=[_forget])
    host: Any = PlainHost(InlineThreads())
    members = [Member(f"nothing{number}", DoesNothing(host), 0, 30.0, OnError.ACCEPT) for number in range(plugins)]
    chain = Chain(members, log=log, metrics=world.services.metrics)
    async with trio.open_nursery() as nursery:
        await nursery.start(chain.run)
        keeper = TaskKeeper(log)
        limits = LimitsSection(max_transactions=10**9, max_idle_commands=10**9)
        services = evolve(
            world.services,
            queue=queue,
            log=log,
            options=evolve(OPTIONS, limits=limits),
            plugins=Plugins(chain, keeper) if plugins else None,
        )
        service = InboundService(services, [])
        listener = ListenerOptions(name="smtp", address="memory")
        begin = time.thread_time()
        await service._serve(Ready(MAILS), listener)
        took = time.thread_time() - begin
        assert queue.taken == MAILS, "every mail was taken"
        nursery.cancel_scope.cancel()
    return took


def _forget(_logger: object, _name: str, _event: object) -> str:
    raise structlog.DropEvent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=60)
    chosen = parser.parse_args()
    best = {count: float("inf") for count in (0, PLUGINS)}
    for _ in range(chosen.repetitions):
        for count in best:
            best[count] = min(best[count], trio.run(seconds, count))
    without, with_all = (best[count] / MAILS * 1e6 for count in best)
    print(f"a mail: {without:.1f} µs without plugins, {with_all:.1f} with {PLUGINS}: {with_all - without:.1f} more")


if __name__ == "__main__":
    main()
