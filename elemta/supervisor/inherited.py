"""What several worker processes of one server inherit from their parent, with the words they exchange.

What is not here: the parent (`supervisor.workers`), or a worker's life (`supervisor.serving`). Everything is bound
before any worker is forked, and before there is an event loop. Between the parent and each worker is a pair of
sockets, whose end tells each of them that the other is gone: the worker says lines of JSON, the parent orders.
Failures raised: `CannotStart` for an address that cannot be bound.
"""

import enum
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import orjson
from attrs import asdict, evolve, frozen

from elemta.config.listeners import effective_listeners
from elemta.config.sections import Config
from elemta.net.activation import HandedSockets
from elemta.net.balance import Share
from elemta.net.base import Endpoint
from elemta.net.shared import SharedSockets, listen_shared
from elemta.supervisor.build import LISTEN_BACKLOG
from elemta.supervisor.failures import cannot_listen
from elemta.web.base import CONTROL_NAME
from elemta.web.sockets import Bound, listen_blocking

_T = TypeVar("_T")

#: Octets of a line: a sentence for people.
LINE_OCTETS = 4096


class Order(enum.Enum):
    """What a parent tells its workers, a line each."""

    DRAIN = b"drain"
    STOP = b"stop"
    TASKS = b"tasks"
    #: Read what may change without a new start: the configuration, certificates.
    RELOAD = b"reload"


@frozen
class Report:
    """What a worker tells its parent: that it serves, or why it cannot; or what came of an order to reload."""

    failure: str = ""
    status: int = 0
    #: How many such orders, since the worker's start, were given before it read what it tells of; 0 for the start.
    reloads: int = 0

    def line(self) -> bytes:
        """As it is sent; a failure that is too long for a line is cut."""
        return orjson.dumps(asdict(evolve(self, failure=self.failure[: LINE_OCTETS // 8]))) + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> "Report":
        """The report of a line."""
        return cls(**orjson.loads(line))


@frozen(eq=False)
class Shared:
    """The sockets of a server that all its workers listen at."""

    names: tuple[str, ...]
    listeners: tuple[SharedSockets, ...]
    control: Bound
    web: Bound | None
    #: Sockets of the service manager for what one worker alone listens at.
    handed: HandedSockets

    @property
    def endpoints(self) -> list[tuple[str, Endpoint]]:
        """The name and the address of every SMTP listener."""
        rows = zip(self.names, self.listeners, strict=True)
        return [(name, endpoint) for name, shared in rows for endpoint in shared.endpoints]

    def lent_web(self) -> Bound:
        """The web side's sockets, for a worker to close."""
        assert self.web is not None
        return self.web.lent()

    def close_listeners(self) -> None:
        """Take no part in listening for mail any more; the workers go on."""
        for shared in self.listeners:
            shared.close()


@frozen(eq=False)
class Inherited:
    """What one worker has from its parent; `number` counts from 1 to `processes`."""

    number: int
    processes: int
    shared: Shared
    line: socket.socket
    share: Share


@contextmanager
def shared_sockets(config: Config, handed: HandedSockets) -> Iterator[Shared]:
    """Bind every address of a configuration that the service manager has not, and give them up at the end.

    Raises `CannotStart`.
    """
    listeners: list[SharedSockets] = []
    ours: list[SharedSockets] = []
    bounds: list[Bound] = []
    sections = effective_listeners(config)
    try:
        for section in sections:
            found = handed.take(section.address)
            if found:
                listeners.append(SharedSockets(section.address, tuple(found)))
                continue
            one = _bound("listen_addr", section.address, lambda address: listen_shared(address, LISTEN_BACKLOG))
            listeners.append(one)
            ours.append(one)
        control = _bound("queue_dir", f"unix:{Path(config.queue_dir, CONTROL_NAME).absolute()}", listen_blocking)
        bounds.append(control)
        web = _bound("web.listen_addr", config.web.listen_addr, listen_blocking) if config.web.enabled else None
        bounds += [] if web is None else [web]
        yield Shared(tuple(section.name for section in sections), tuple(listeners), control, web, handed)
    finally:
        for shared in listeners:
            shared.close()
        for shared in ours:
            shared.unlink()
        for bound in bounds:
            bound.close()


def _bound(key: str, address: str, bind: Callable[[str], _T]) -> _T:
    try:
        return bind(address)
    except OSError as error:
        error.filename = address.removeprefix("unix:") if key == "queue_dir" else address
        raise cannot_listen(error, key=key) from error
