"""Units of work from Trio tasks on a bounded pool of asyncio connections.

What is not here: any one driver (`postgresql`, `mysql`), or what its errors mean (`faults`).

A unit crosses the border once: one asyncio task, for which its Trio task waits, shielded, until the unit's deadline. At
the deadline its connection is cut, so that whatever it waits for there fails at once. A connection on which anything
went wrong but a plain answer of the server is never used again.

Raises the errors of `base`, nothing of a driver's.
"""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Any, Generic, NoReturn, TypeVar

import trio
import trio_asyncio
from attrs import define

from elemta.datasource.base import DatabaseAway, DatabaseError, OutcomeUnknown, Work
from elemta.datasource.faults import Fault, FaultKind, error_of
from elemta.datasource.options import DatabaseOptions, Dialect
from elemta.datasource.wire import Driver, RolledBack, Wire

T = TypeVar("T")

#: Runs of one unit while other transactions are in its way; each waits up to twice as long as the one before.
MAX_RUNS = 6

#: Seconds of the first wait after a conflict, at most.
BACKOFF_SECONDS = 0.02

#: Seconds that a connection may lie idle and be trusted: firewalls commonly forget one after five minutes.
IDLE_SECONDS = 240.0

#: Seconds for closing idle connections in order; then they are cut.
CLOSE_SECONDS = 2.0


@define(eq=False)
class Unit(Generic[T]):
    """One unit of work under way: what its deadline has to know of it, and how it is run."""

    work: Work[T]
    seconds: float
    is_transaction: bool = False
    #: On a connection of its own, whose statements may take as long as the unit.
    is_at_length: bool = False
    wire: Wire | None = None
    is_begun: bool = False
    is_committing: bool = False
    is_late: bool = False

    def expire(self) -> None:
        """The deadline is past: cut the connection."""
        self.is_late = True
        if self.wire is not None:
            self.wire.abort()

    async def run_on(self, wire: Wire) -> T:
        """Run it once, to its end."""
        if not self.is_transaction:
            await wire.singly()
            return await self.work(wire)
        await wire.begin()
        value = await self.work(wire)
        self.is_committing = True
        await wire.commit()
        return value


class Conflict(Exception):
    """The unit has to run again: another transaction was in its way."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.words)
        self.fault = fault


class Stale(Exception):
    """The connection from the pool had died while it lay idle, and nothing had been sent for COMMIT."""


def unheard(_loop: asyncio.AbstractEventLoop, _context: dict[str, Any]) -> None:
    """Drop what a driver's connection complains of once nobody waits on it; the loop's own handler would end us all.

    Every failure that matters reaches the unit that met it.
    """


async def close_all(wires: Sequence[Wire]) -> None:
    """Say goodbye on connections, then cut them; on the asyncio side."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await asyncio.gather(*(wire.close() for wire in wires), return_exceptions=True)
    except TimeoutError:
        pass
    finally:
        for wire in wires:
            wire.abort()


class PooledDatabase:
    """One database behind a pool; `run` is its service. See `base.Database`."""

    def __init__(self, options: DatabaseOptions, driver: Driver, *, rng: random.Random | None = None) -> None:
        self._options = options
        self._driver = driver
        self._rng = rng or random.Random()
        self._loop: trio_asyncio.TrioEventLoop | None = None
        self._places = trio.Semaphore(options.pool_size)
        #: Connections that nobody uses, the one used last at the end, and when it was laid there.
        self._idle: list[tuple[Wire, float]] = []

    @property
    def name(self) -> str:
        """Where it is, for people and the log."""
        return self._options.name

    @property
    def dialect(self) -> Dialect:
        """Whose SQL it speaks."""
        return self._options.dialect

    # ---- the service -----------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the loop and the connections until cancelled; units under way are finished first.

        The server need not be there: each connection is made when it is needed.
        """
        async with trio_asyncio.open_loop() as loop:
            loop.set_exception_handler(unheard)
            self._loop = loop
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._loop = None
                patience = self._options.unit_seconds + CLOSE_SECONDS
                with trio.move_on_after(patience, shield=True):
                    for _ in range(self._options.pool_size):
                        await self._places.acquire()
                    await loop.run_aio_coroutine(self._close_idle())
                for _ in range(self._options.pool_size):
                    self._places.release()

    def _drop_idle(self) -> None:
        for wire, _ in self._idle:
            wire.abort()
        self._idle.clear()

    async def _close_idle(self) -> None:
        wires = [wire for wire, _ in self._idle]
        self._idle.clear()
        await close_all(wires)

    # ---- units of work ---------------------------------------------------------------------------

    async def transact(self, work: Work[T]) -> T:
        """Run a unit of work in one transaction and commit it. See `base.Database`."""
        return await self._cross(Unit(work, self._options.unit_seconds, is_transaction=True))

    async def look(self, work: Work[T]) -> T:
        """Run statements that may be repeated. See `base.Database`."""
        return await self._cross(Unit(work, self._options.unit_seconds))

    async def labour(self, work: Work[T], *, seconds: float) -> T:
        """Run a unit of work in a transaction that may take long, on a connection of its own. Raises as `transact`."""
        return await self._cross(Unit(work, seconds, is_transaction=True, is_at_length=True))

    async def _cross(self, unit: Unit[T]) -> T:
        """Take a place in the pool, hand the unit over, wait for it come what may."""
        self._running_loop()
        await self._take_place()
        try:
            return await self._wait(unit, self._running_loop())
        finally:
            self._places.release()

    def _running_loop(self) -> trio_asyncio.TrioEventLoop:
        if self._loop is None:
            raise DatabaseAway(f"{self.name}: not in use: the server starts or stops")
        return self._loop

    async def _take_place(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        with contextlib.suppress(trio.WouldBlock):
            self._places.acquire_nowait()
            return
        with trio.move_on_after(self._options.pool_wait_seconds) as patience:
            await self._places.acquire()
        if patience.cancelled_caught:
            seconds = f"{self._options.pool_wait_seconds:g} s"
            text = f"none of {self._options.pool_size} connections was free within {seconds}"
            raise DatabaseAway(f"{self.name}: {text} (see what keeps the server busy, or raise pool_size)")

    async def _wait(self, unit: Unit[T], loop: trio_asyncio.TrioEventLoop) -> T:
        """Have the unit run as an asyncio task, and wait until it ended: at its deadline, because it was cut."""
        waiter = trio.lowlevel.current_task()

        async def cross() -> T:
            unit.is_begun = True
            try:
                if unit.is_late:
                    raise self._late(unit)
                return await self._repeat(unit)
            finally:
                # The task ends with this step, before the waiter runs: measured, a third less than by a done callback.
                trio.lowlevel.reschedule(waiter)

        job = loop.create_task(cross())

        def expire(_: object) -> trio.lowlevel.Abort:
            unit.expire()
            if unit.is_begun:  # or else it would never come to wake us
                job.cancel()
            return trio.lowlevel.Abort.FAILED  # the unit ends by itself now, and says how

        with trio.CancelScope(deadline=trio.current_time() + unit.seconds, shield=True):
            await trio.lowlevel.wait_task_rescheduled(expire)
        if job.cancelled():
            raise self._late(unit)
        value: T = job.result()
        return value

    # ---- on the asyncio side ---------------------------------------------------------------------

    async def _repeat(self, unit: Unit[T]) -> T:
        """Run a unit until it is through, or there is no sense in running it again."""
        runs, is_stale = 0, False
        while True:
            try:
                is_fresh = await self._equip(unit, anew=is_stale or unit.is_at_length)
                return await self._run(unit, is_fresh=is_fresh)
            except Stale:
                # Whatever ended this one, a restart mostly, ended the others: nobody is there to say goodbye to.
                self._drop_idle()
                is_stale = True
            except Conflict as conflict:
                runs += 1
                if runs == MAX_RUNS:
                    raise error_of(conflict.fault, self.name) from conflict.__cause__
                await asyncio.sleep(self._rng.uniform(0, BACKOFF_SECONDS * 2**runs))

    async def _equip(self, unit: Unit[T], *, anew: bool) -> bool:
        """Give the unit a connection; whether it is a new one."""
        unit.is_committing = False
        oldest = trio.current_time() - IDLE_SECONDS
        while self._idle and not anew:
            wire, since = self._idle.pop()
            if not wire.is_dead and since > oldest:
                unit.wire = wire
                return False
            wire.abort()
        seconds = self._options.connect_seconds
        try:
            async with asyncio.timeout(seconds):
                unit.wire = await self._driver.connect(at_length=unit.seconds if unit.is_at_length else None)
        except TimeoutError:
            text = f"{self.name}: no connection within {seconds:g} s (is the server up, and reachable?)"
            raise DatabaseAway(text) from None
        except Exception as error:
            fault = self._driver.explain(error)
            if fault is None:
                raise
            raise error_of(fault, self.name) from error
        return True

    async def _run(self, unit: Unit[T], *, is_fresh: bool) -> T:
        """Run a unit once on its connection, then lay that back or throw it away."""
        wire = unit.wire
        assert wire is not None
        try:
            value = await unit.run_on(wire)
        except Exception as error:
            await self._fail(unit, wire, error, is_fresh=is_fresh)
        except BaseException:
            wire.abort()
            raise
        finally:
            unit.wire = None  # a deadline that comes now must not cut what another unit uses
        await self._lay_back(unit, wire)
        return value

    async def _fail(self, unit: Unit[T], wire: Wire, error: Exception, *, is_fresh: bool) -> NoReturn:
        """Leave the connection as it should be, and raise what the error means."""
        fault = error.fault if isinstance(error, RolledBack) else self._driver.explain(error)
        is_lost = unit.is_late or wire.is_dead or (fault is not None and fault.kind is FaultKind.LOST)
        is_unknown = (
            unit.is_committing and not isinstance(error, RolledBack) and (fault is None or not fault.is_definite)
        )
        unit.is_committing = is_unknown
        if is_lost or is_unknown:
            wire.abort()
        else:
            await self._undo(unit, wire)
        if is_unknown:
            words = fault.words if fault is not None else repr(error)
            raise OutcomeUnknown(f"{self.name}: broke while it committed: {words}") from error
        if unit.is_late:
            raise self._late(unit) from None
        if fault is None:
            raise error
        if is_lost and not is_fresh:
            raise Stale from error
        if fault.kind is FaultKind.CONFLICT:
            raise Conflict(fault) from error
        raise error_of(fault, self.name) from error

    async def _undo(self, unit: Unit[T], wire: Wire) -> None:
        try:
            await wire.rollback()
        except Exception:  # what matters is why the unit failed; a new connection is as good as a rollback
            wire.abort()
        except BaseException:
            wire.abort()
            raise
        else:
            await self._lay_back(unit, wire)

    async def _lay_back(self, unit: Unit[T], wire: Wire) -> None:
        if unit.is_at_length:
            await close_all([wire])
        elif wire.is_dead:
            wire.abort()
        else:
            self._idle.append((wire, trio.current_time()))

    def _late(self, unit: Unit[T]) -> DatabaseError:
        seconds = f"{unit.seconds:g} s"
        if unit.is_committing:
            return OutcomeUnknown(f"{self.name}: no answer to COMMIT within {seconds}")
        return DatabaseAway(f"{self.name}: no answer within {seconds} (is the server up, reachable, and not too busy?)")
