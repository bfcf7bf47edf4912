"""The process that `elemta run` is: the queue folder's lock, a certificate, then one server or several workers.

What is not here: the server in its process (`supervisor.serving`), the workers (`supervisor.workers`), or the command
line's words (`cli.run`). Failures raised: `CannotStart`, with one sentence that says what to do.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import frozen

from elemta.config.sections import Config
from elemta.observe.log import make_logger
from elemta.runtime.clock import SystemClock
from elemta.supervisor.certificate import provide_certificate
from elemta.supervisor.failures import NOT_PERMITTED, TEMPORARY, CannotStart
from elemta.supervisor.lock import QueueBusy, QueueLock, QueueUnusable
from elemta.supervisor.ready import Starter
from elemta.supervisor.reload import ConfigSource
from elemta.supervisor.serving import serve_here
from elemta.supervisor.workers import run_workers


@frozen
class ProcessOptions:
    """What the command line adds to the configuration."""

    #: A descriptor that gets one JSON line once every listener accepts.
    ready_fd: int | None = None


def run_process(source: ConfigSource, options: ProcessOptions) -> None:
    """Run the server until it is told to stop. Raises `CannotStart`."""
    config = source.config
    log = make_logger(config.logging.level, config.logging.format)
    starter = Starter.of_environment(os.environ, config, ready_fd=options.ready_fd)
    with _owned(config) as lock:
        try:
            provide_certificate(config, SystemClock(), log)
        except OSError as error:
            raise CannotStart(f"no certificate can be made in {config.queue_dir}: {error}.") from error
        if config.processes == 1:
            serve_here(source, log, starter=starter)
        else:
            run_workers(source, log, lock=lock, starter=starter)


@contextmanager
def _owned(config: Config) -> Iterator[QueueLock]:
    """Own the queue folder."""
    lock = QueueLock(Path(config.queue_dir))
    with ExitStack() as stack:
        try:
            stack.enter_context(lock)
        except QueueBusy as error:
            raise CannotStart(str(error), TEMPORARY) from error
        except QueueUnusable as error:
            raise CannotStart(str(error), NOT_PERMITTED) from error
        yield lock
