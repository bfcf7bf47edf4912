"""A queue opened by a command itself, without the server's pages.

A queue on this machine is opened under its lock alone, so that no server works on it meanwhile; one in a shared
database needs no lock. What is not here: what is done with it (`cli.client`, `cli.queue_transfer`).
Everything that is slow to import is imported when a command runs. Failure raised: `CommandError`.
"""

import contextlib
import errno
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from elemta.cli.output import CommandError, ExitCode

if TYPE_CHECKING:
    from elemta.config.sections import Config
    from elemta.delivery.inbox import InboxStore
    from elemta.runtime.world import Runtime
    from elemta.storage.base import QueueStore
    from elemta.supervisor.build import Stores

#: Seconds to close a queue: a last checkpoint of the database.
CLOSE_SECONDS = 10.0


def is_shared(config: "Config") -> bool:
    """True for a queue that several nodes may use at once."""
    from elemta.config.checks import SHARED_STORAGE

    return config.storage.type in SHARED_STORAGE


@contextlib.contextmanager
def locked(config: "Config", *, make: bool = False, always: bool = False) -> Iterator[None]:
    """Hold the lock of a queue on this machine, or `always` that of `queue_dir`. Raises `CommandError`.

    With `make` a queue that is not there yet is begun.
    """
    if is_shared(config) and not always:
        yield
        return
    folder = Path(config.queue_dir).absolute()
    _check_folder(folder, make=make)
    from elemta.supervisor.lock import QueueBusy, QueueLock, QueueUnusable

    if config.storage.type == "memory":
        raise CommandError("no server is running, and its queue was in memory alone.", ExitCode.UNREACHABLE)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(QueueLock(folder))
        except QueueBusy as error:
            says = f"{error}\nIf it is just starting or ending, try again."
            raise CommandError(says, ExitCode.TEMPORARY) from None
        except QueueUnusable as error:
            raise CommandError(str(error), ExitCode.PERMISSION) from None
        yield


def _check_folder(folder: Path, *, make: bool) -> None:
    try:
        owner = folder.stat().st_uid
    except PermissionError:
        raise CommandError(f"the queue folder {folder} belongs to another user.", ExitCode.PERMISSION) from None
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise CommandError(f"the queue folder {folder} cannot be used: {error.strerror}.") from None
        if make:
            return
        raise CommandError(
            f"no server is running, and there is no queue in {folder}.\n"
            "Start one with `elemta run`, or name its configuration with -c.",
            ExitCode.UNREACHABLE,
        ) from None
    if os.geteuid() == 0 and owner != 0:
        # What root writes there, the server could not open any more.
        raise CommandError(
            f"the queue folder {folder} belongs to user {owner} and its server is stopped; run this as that user.",
            ExitCode.PERMISSION,
        )


@contextlib.asynccontextmanager
async def opened(config: "Config", runtime: "Runtime", *, inbox: bool = False) -> AsyncIterator["Stores"]:
    """The stores that a configuration names: the queue is open, or with `inbox` that alone. Raises `CommandError`."""
    import trio

    from elemta.storage.base import StoreUnavailable
    from elemta.supervisor.failures import only_one
    from elemta.supervisor.stores import UnusableDsn, stores_of

    try:
        async with stores_of(config, runtime) as stores:
            store: QueueStore | InboxStore = stores.inbox if inbox else stores.queue
            try:
                await store.open()
            except (StoreUnavailable, OSError) as error:
                raise CommandError(str(error), ExitCode.TEMPORARY) from None
            try:
                yield stores
            finally:
                with trio.move_on_after(CLOSE_SECONDS, shield=True):
                    await store.close()
    except UnusableDsn as error:
        raise CommandError(str(error), ExitCode.CONFIG) from None
    except BaseExceptionGroup as group:
        # What runs beside a database has a nursery of its own, which wraps what the command itself raises.
        raise only_one(group) from None
