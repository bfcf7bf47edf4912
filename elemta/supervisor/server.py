"""The server: every service, started in order, drained in the opposite one.

What is not here: how the parts are chosen (`supervisor.build`), the process around it (`supervisor.process`).
The simulated world runs this very class on virtual parts. Order: store, connections, queue, listeners; a drain goes the
other way, so that no mail is taken that cannot be made durable, no attempt is cut that could have finished.
"""

import trio
from attrs import evolve, frozen

from elemta.delivery.base import Delivery
from elemta.delivery.inbox import InboxStore
from elemta.delivery.pool import ConnectionPool
from elemta.inbound.base import Recipients
from elemta.inbound.options import InboundOptions
from elemta.inbound.plugged import Plugins
from elemta.inbound.service import InboundService
from elemta.inbound.transaction import Services
from elemta.net.base import Endpoint
from elemta.plugins.chain import Chain
from elemta.queue.options import QueueOptions
from elemta.queue.service import QueueService
from elemta.storage.base import QueueStore
from elemta.supervisor.memory import MemoryKeeper

#: Seconds that closing the stores may take after the drain: a last checkpoint of the database.
CLOSE_SECONDS = 10.0


@frozen
class Parts:
    """What a server is made of."""

    store: QueueStore
    inbox: InboxStore
    queue: QueueService
    inbound: InboundService
    pool: ConnectionPool
    #: None in the simulated world.
    memory: MemoryKeeper | None


@frozen
class Settings:
    """What of a configuration may change while a server runs, as its parts take it."""

    delivery: Delivery
    queue: QueueOptions
    recipients: Recipients
    inbound: InboundOptions
    plugins: Plugins | None

    @property
    def chain(self) -> Chain | None:
        """The plugins as deliveries ask them."""
        return None if self.plugins is None else self.plugins.chain


class Server:
    """One running mail server."""

    def __init__(self, parts: Parts, services: Services) -> None:
        """`services` are what the inbound part begins with."""
        self.parts = parts
        self._services = services
        self._stop = trio.CancelScope()

    @property
    def endpoints(self) -> list[tuple[str, Endpoint]]:
        """The name and the bound address of every SMTP listener."""
        return self.parts.inbound.endpoints

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `drain` has ended. Ready once every listener accepts, or when it was stopped before (`stopped`).

        Raises `StoreUnavailable` at the start.
        """
        parts = self.parts
        started = False
        try:
            await parts.inbox.open()
            with self._stop:
                async with trio.open_nursery() as nursery:
                    await nursery.start(parts.pool.run)
                    await nursery.start(parts.queue.run)
                    await nursery.start(parts.inbound.run)
                    if parts.memory is not None:
                        nursery.start_soon(parts.memory.run)
                    started = True
                    task_status.started()
            if not started:
                task_status.started()
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await parts.inbox.close()
                await parts.store.close()

    @property
    def stopped(self) -> bool:
        """True once it was told to stop, or has drained."""
        return self._stop.cancel_called

    def adopt(self, settings: Settings) -> None:
        """Go on with these: new sessions at once, mails in the queue from their next step on."""
        self._services = evolve(
            self._services, recipients=settings.recipients, options=settings.inbound, plugins=settings.plugins
        )
        self.parts.inbound.adopt(self._services)
        self.parts.queue.adopt(settings.delivery, settings.queue, settings.chain)

    def uses(self, plugins: Plugins) -> bool:
        """Whether a session or an attempt goes on that began with these plugins."""
        return self.parts.inbound.uses(plugins) or self.parts.queue.asks(plugins.chain)

    async def drain(self, seconds: float) -> bool:
        """Stop in order: clients hear 421, transactions and attempts finish within `seconds`, then `run` returns.

        True when no client had to be cut.
        """
        deadline = trio.current_time() + seconds
        in_order = await self.parts.inbound.drain(seconds)
        await self.parts.queue.drain(max(deadline, trio.current_time()))
        self._stop.cancel()
        return in_order

    def stop(self) -> None:
        """Stop now: what is running is cut, and tried again after the next start."""
        self._stop.cancel()
