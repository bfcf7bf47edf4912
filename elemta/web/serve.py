"""Serves an application over HTTP with Hypercorn's Trio worker.

What is not here: the application (`web.app`). Import this module only to serve: Hypercorn takes as long to import as
the rest of the server.

A crash of the worker, which a defect in one connection can cause, costs the connections their requests: the sockets
stay bound and a new worker takes over. Failures raised: `OSError`, `ValueError` when the address cannot be bound.
"""

import os
from typing import Any

import hypercorn.trio
import trio
from hypercorn.config import Config
from hypercorn.logging import Logger
from starlette.types import ASGIApp
from structlog.typing import FilteringBoundLogger

from elemta.net.base import Endpoint
from elemta.web.sockets import Bound, listen

#: Seconds that requests may take after the shutdown was asked for.
GRACE_SECONDS = 3.0
#: Seconds after that at which connections that still do not end are cut.
LATE_SECONDS = 1.0
#: Seconds that a connection may idle between requests.
KEEP_ALIVE_SECONDS = 15.0
#: Seconds without an octet from a client that has a request open: above the longest wait for a mail.
READ_SECONDS = 90.0
#: Seconds between a crash of the worker and the next one.
RESTART_SECONDS = 1.0


async def serve(
    app: ASGIApp,
    *,
    bind: str | Bound,
    shutdown: trio.Event,
    log: FilteringBoundLogger,
    task_status: trio.TaskStatus[Endpoint] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve at `bind` (`host:port`, `unix:/path`, or bound already) until `shutdown`; started with the address.

    A unix socket has mode 0600. Returns within `GRACE_SECONDS + LATE_SECONDS` of the shutdown or the cancellation.
    """
    bound = await listen(bind) if isinstance(bind, str) else bind
    ended = trio.Event()
    try:
        task_status.started(bound.local)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cut_off_late, bound, shutdown, ended, log)
            try:
                await _serve_on(app, bound, shutdown, log)
            finally:
                ended.set()
                nursery.cancel_scope.cancel()
    finally:
        bound.close()


async def _serve_on(app: ASGIApp, bound: Bound, shutdown: trio.Event, log: FilteringBoundLogger) -> None:
    while not shutdown.is_set():
        try:
            await hypercorn.trio.serve(
                app,  # type: ignore[arg-type]  # Starlette and Hypercorn spell the types of ASGI differently
                _config(bound, log),
                shutdown_trigger=shutdown.wait,
                mode="asgi",
            )
        except Exception as error:
            log.error("web.worker_crashed", address=str(bound.local), exc_info=error)
            with trio.move_on_after(RESTART_SECONDS):
                await shutdown.wait()


async def _cut_off_late(bound: Bound, shutdown: trio.Event, ended: trio.Event, log: FilteringBoundLogger) -> None:
    try:
        await shutdown.wait()
    finally:
        # However the end came: nobody new is taken, what does not end by itself is ended.
        bound.close()
        with trio.move_on_after(GRACE_SECONDS + LATE_SECONDS, shield=True):
            await ended.wait()
        if not ended.is_set():
            log.warning("web.cut_off", address=str(bound.local), connections=bound.cut_off())


def _config(bound: Bound, log: FilteringBoundLogger) -> Config:
    config = Config()
    # Duplicates, because the worker closes what it is given.
    config.bind = [f"fd://{os.dup(sock.fileno())}" for sock in bound.sockets]
    config.accesslog = None
    config.errorlog = None
    config.logger_class = _logger_class(log)
    config.include_server_header = False
    config.graceful_timeout = GRACE_SECONDS
    config.shutdown_timeout = GRACE_SECONDS
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.read_timeout = int(READ_SECONDS)
    return config


def _logger_class(log: FilteringBoundLogger) -> type[Logger]:
    """Hypercorn's logger with our log behind it: failures alone, no line a request."""

    class Quiet(Logger):
        async def error(self, message: str, *args: Any, **_kwargs: Any) -> None:
            log.error("web.worker", says=message % args if args else message)

        critical = warning = error

        async def exception(self, message: str, *args: Any, **_kwargs: Any) -> None:
            log.error("web.worker", says=message % args if args else message, exc_info=True)

    return Quiet
