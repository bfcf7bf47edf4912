"""Several worker processes of one server under their parent, which serves nobody itself.

What is not here: a worker's life (`supervisor.serving`), what it inherits and the words between the two
(`supervisor.inherited`), how long it waits to be started again (`supervisor.backoff`).

The parent binds every address before it forks, and keeps the sockets: while a worker is started again, clients wait in
the kernel's queue. It never runs an event loop or a thread, so that each fork begins clean: a worker makes its own
clock, chance, ids, metrics, database connections. A worker that ends unasked is started again under its own number, so
that it joins the queue as the node that it was, and recovers what that had in hand.
Failures raised: `CannotStart` when no worker can start, with what the first of them said.
"""

import os
import random
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from math import inf

from structlog.typing import FilteringBoundLogger

from elemta.config.sections import Config
from elemta.net.balance import ABSENT, Share, Tally
from elemta.supervisor.backoff import Backoff
from elemta.supervisor.failures import FAILED, CannotStart
from elemta.supervisor.inherited import LINE_OCTETS, Inherited, Order, Report, Shared, shared_sockets
from elemta.supervisor.lock import QueueLock
from elemta.supervisor.ready import Starter
from elemta.supervisor.reload import ConfigSource, tell_failure
from elemta.supervisor.server import CLOSE_SECONDS
from elemta.supervisor.serving import SIGNALS, WEB_STOP_SECONDS, Terminal, say_ready, serve_here

#: What a worker imports late: for the web side, for certificates, and for the queue by `storage.type`.
WEB_MODULES = ("elemta.web.app", "elemta.web.serve")
TLS_MODULES = ("elemta.tls.certificates",)
STORAGE_MODULES = {name: (f"elemta.storage.{name}", f"elemta.datasource.{name}") for name in ("postgresql", "mysql")}

#: Seconds beyond its own bounds after which a worker that was told to end is killed: a machine under load is slow.
KILL_MARGIN_SECONDS = 5.0


class _Worker:
    """One worker as its parent knows it: it runs while `line` is there, else it waits for `start_at`."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.number = number
        self.backoff = Backoff(chance)
        self.pid = 0
        self.line: socket.socket | None = None
        self.started_at = 0.0
        self.start_at = -inf
        self.is_ready = False
        self.failure: CannotStart | None = None
        #: Orders to reload that it was given, and those it has obeyed, since it was started; whether the last ones came
        #: to something.
        self.reloads_ordered = 0
        self.reloads_done = 0
        self.took_over = False
        self._heard = b""

    def hear(self, piece: bytes) -> Iterator[Report]:
        """The reports that are whole with this piece."""
        *lines, self._heard = (self._heard + piece).split(b"\n")
        return map(Report.of_line, lines)

    def tell(self, order: Order) -> None:
        """Give it an order; one that has just ended hears nothing."""
        if self.line is not None:
            self.reloads_ordered += order is Order.RELOAD
            with suppress(OSError):
                self.line.send(order.value + b"\n")


def run_workers(source: ConfigSource, log: FilteringBoundLogger, *, lock: QueueLock, starter: Starter) -> None:
    """Run `config.processes` workers until told to stop. Raises `CannotStart`."""
    _import_all(source.config)
    with shared_sockets(source.config, starter.sockets) as shared, _signals() as signals:
        _Parent(source, log, lock, shared=shared, signals=signals, starter=starter).run()


def _import_all(config: Config) -> None:
    """Import what every worker needs, once.

    Measured: a worker then has 10 MB fewer of its own, and is ready in 0.13 instead of 0.46 s. `gc.freeze`, which is to
    keep pages shared for longer, changed nothing: counting references writes to them all.
    """
    tls = TLS_MODULES if config.tls.enabled else ()
    for name in (*WEB_MODULES, *STORAGE_MODULES.get(config.storage.type, ()), *tls):
        import_module(name)


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that gets each signal's number as an octet."""
    reads, writes = socket.socketpair()
    reads.setblocking(False)
    writes.setblocking(False)
    old_descriptor = signal.set_wakeup_fd(writes.fileno(), warn_on_full_buffer=False)
    old_handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    try:
        yield reads
    finally:
        signal.set_wakeup_fd(old_descriptor)
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
        reads.close()
        writes.close()


class _Parent:
    def __init__(
        self,
        source: ConfigSource,
        log: FilteringBoundLogger,
        lock: QueueLock,
        *,
        shared: Shared,
        signals: socket.socket,
        starter: Starter,
    ) -> None:
        self._source = source
        self._log = log
        self._lock = lock
        self._shared = shared
        self._signals = signals
        self._starter = starter
        self._sign_of_life_at = -inf if starter.notifier.pause else inf
        self._terminal = Terminal()
        self._announced = False
        self._could_start = False
        self._ending = False
        self._reloading = False
        self._kill_at = inf
        self._failure: CannotStart | None = None
        self._selector = selectors.DefaultSelector()
        chance = random.Random()
        self._tally = Tally(source.config.processes)
        self._workers = [_Worker(number, chance) for number in range(1, source.config.processes + 1)]

    def run(self) -> None:
        self._selector.register(self._signals, selectors.EVENT_READ, self._hear_signals)
        with self._selector:
            while True:
                self._do_what_is_due()
                if self._ending and not any(worker.line for worker in self._workers):
                    break
                for key, _ in self._selector.select(self._pause()):
                    act: Callable[[], None] = key.data
                    act()
        if self._failure is not None:
            raise self._failure

    def _pause(self) -> float | None:
        """Seconds until something is due, None when nothing is."""
        starts = [worker.start_at for worker in self._workers if worker.line is None and not self._ending]
        due = min([self._kill_at, self._sign_of_life_at, *starts])
        return None if due == inf else max(0.0, due - time.monotonic())

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.line is None and not self._ending and worker.start_at <= now:
                self._start(worker)
        if now >= self._kill_at:
            self._kill_at = inf
            self._kill()
        if now >= self._sign_of_life_at:
            self._starter.notifier.alive()
            self._sign_of_life_at = now + (self._starter.notifier.pause or inf)

    # ---- signals -----------------------------------------------------------------------------

    def _hear_signals(self) -> None:
        with suppress(BlockingIOError):
            for number in self._signals.recv(LINE_OCTETS):
                if number == signal.SIGUSR2:
                    self._tell(Order.TASKS)
                elif number == signal.SIGHUP and not self._terminal.is_gone:
                    self._reload()
                elif number in SIGNALS:
                    self._end(Order.STOP if self._ending else Order.DRAIN, signal.Signals(number).name)

    def _reload(self) -> None:
        """Have each worker read everything again."""
        if self._ending:
            return
        if self._announced:
            self._starter.tell_reloading()
        self._reloading = True
        self._tell(Order.RELOAD)
        self._conclude_reload()

    def _conclude_reload(self) -> None:
        """Once all workers are done, do so here, for those that are started later.

        Not before: what one of them could not take over, such as a plugin that does not start, would keep every later
        one from starting.
        """
        workers = self._workers
        if not self._reloading or any(worker.reloads_ordered > worker.reloads_done for worker in workers):
            return
        self._reloading = False
        if all(worker.took_over for worker in workers if worker.reloads_done):
            try:
                self._source.config = self._source.read().config
            except Exception as error:
                tell_failure(error, self._log)
        if self._announced:
            self._starter.tell_reloaded()

    def _tell(self, order: Order) -> None:
        for worker in self._workers:
            worker.tell(order)

    def _end(self, order: Order, cause: str) -> None:
        """Have all workers end; the listening sockets go with the last of them."""
        self._ending, self._reloading = True, False
        self._log.info("server.draining" if order is Order.DRAIN else "server.stopping", signal=cause)
        self._shared.close_listeners()
        self._tell(order)
        drain = self._source.config.timeouts.shutdown_timeout if order is Order.DRAIN else 0.0
        self._starter.tell_stopping(drain)
        self._kill_at = time.monotonic() + drain + CLOSE_SECONDS + WEB_STOP_SECONDS + KILL_MARGIN_SECONDS

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.line is not None:
                self._log.error("worker.killed", worker=worker.number, pid=worker.pid, cause="it did not end in time")
                os.kill(worker.pid, signal.SIGKILL)

    # ---- one worker --------------------------------------------------------------------------

    def _start(self, worker: _Worker) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            sys.stdout.flush()
            sys.stderr.flush()
            # Held back until the worker has its own receiver: what arrives meanwhile waits.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                pid = os.fork()
                if pid == 0:
                    self._become(worker, ours, theirs)
            except OSError as error:
                ours.close()
                self._wait(worker, 0.0)
                self._log.error("worker.not_started", worker=worker.number, error=str(error))
                return
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        ours.setblocking(False)
        worker.pid, worker.line, worker.started_at = pid, ours, time.monotonic()
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._hear(worker, ours))
        self._log.info("worker.started", worker=worker.number, pid=pid)
        worker.reloads_ordered = 0
        if self._reloading:
            worker.tell(Order.RELOAD)

    def _hear(self, worker: _Worker, line: socket.socket) -> None:
        try:
            piece = line.recv(LINE_OCTETS)
        except ConnectionError:
            piece = b""
        for report in worker.hear(piece):
            if report.reloads:
                worker.reloads_done, worker.took_over = report.reloads, not report.failure
                self._conclude_reload()
            elif report.failure:
                worker.failure = CannotStart(report.failure, report.status)
            else:
                worker.is_ready = self._could_start = True
        if not piece:
            self._bury(worker, line)
        elif not self._announced and not self._ending and all(one.is_ready for one in self._workers):
            self._announce()

    def _bury(self, worker: _Worker, line: socket.socket) -> None:
        """Its end of the line is closed, which only its end does: wait for it, then have it started again."""
        self._selector.unregister(line)
        line.close()
        worker.line, worker.is_ready = None, False
        # What it said of reloads is over with it; one that goes on is for its successor.
        worker.reloads_ordered, worker.reloads_done = int(self._reloading), 0
        self._tally.set(worker.number - 1, ABSENT)
        _, status = os.waitpid(worker.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        ended = {"signal": signal.Signals(-code).name} if code < 0 else {"status": code}
        ran = time.monotonic() - worker.started_at
        again = {} if self._ending else {"again_in": round(self._wait(worker, ran), 1)}
        tell = self._log.info if self._ending else self._log.warning
        tell("worker.ended", worker=worker.number, pid=worker.pid, seconds=round(ran, 1), **ended, **again)
        if not self._ending:
            self._give_up_if_none_can_start()

    def _wait(self, worker: _Worker, ran: float) -> float:
        seconds = worker.backoff.after(ran)
        worker.start_at = time.monotonic() + seconds
        return seconds

    def _give_up_if_none_can_start(self) -> None:
        """A mistake that every worker finds at its first start will not go away: whoever started us must hear of it."""
        failures = [worker.failure for worker in self._workers]
        if self._could_start or None in failures:
            return
        self._failure = failures[0]
        self._end(Order.STOP, "no worker can start")

    def _announce(self) -> None:
        self._announced = True
        web = None if self._shared.web is None else self._shared.web.local
        say_ready(self._source.config, self._log, endpoints=self._shared.endpoints, web=web, starter=self._starter)

    # ---- in the worker -----------------------------------------------------------------------

    def _become(self, worker: _Worker, ours: socket.socket, theirs: socket.socket) -> None:
        """Live as this worker; never returns, since everything up the stack is the parent's."""
        status = FAILED
        try:
            ours.close()
            self._leave_the_parent()
            share = Share(self._tally, worker.number - 1)
            inherited = Inherited(worker.number, self._source.config.processes, self._shared, theirs, share)
            status = _serve(self._source, self._log.bind(worker=worker.number), inherited)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _leave_the_parent(self) -> None:
        """Let go of what is the parent's: its lock, its lines to the others, what hears its signals."""
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        self._lock.disown()
        self._selector.close()
        self._signals.close()
        for worker in self._workers:
            if worker.line is not None:
                worker.line.close()
        if self._starter.ready_fd is not None and not self._announced:
            os.close(self._starter.ready_fd)


def _serve(source: ConfigSource, log: FilteringBoundLogger, inherited: Inherited) -> int:
    """The whole life of a worker; its exit status."""
    try:
        serve_here(source, log, inherited=inherited)
    except CannotStart as error:
        log.error("worker.cannot_start", error=str(error))
        with suppress(OSError):
            inherited.line.send(Report(str(error), error.status).line())
        return error.status
    except BaseException as error:  # noqa: ASYNC103  # the process ends here
        log.error("worker.failed", error=f"{type(error).__name__}: {error}", exc_info=error)
        return FAILED  # noqa: ASYNC104  # as above
    return 0
