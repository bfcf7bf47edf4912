"""Tells whoever started the server how it is.

Three may wait for it: a script or a test, which gets one JSON line on a descriptor that it opened, so that it can use
port 0; a service manager, which hears how the server is; and clients, at sockets that the manager has bound.
What is not here: the manager's protocols (`supervisor.notify`, `net.activation`).
Failure raised: `CannotStart` for sockets that cannot be served, or that no listener asks for.
"""

import os
import time
from collections.abc import MutableMapping, Sequence

import orjson
from attrs import field, frozen

from elemta.config.listeners import effective_listeners
from elemta.config.sections import Config
from elemta.net.activation import BadHandover, HandedSockets
from elemta.net.base import Endpoint
from elemta.supervisor.failures import CONFIG, CannotStart
from elemta.supervisor.notify import Notifier

#: What a manager shows of a server that does its work.
_SERVING = "Serving mail"


@frozen
class Starter:
    """Whoever started the server."""

    #: A descriptor that gets one JSON line once every listener accepts; None when nobody reads one.
    ready_fd: int | None = None
    notifier: Notifier = Notifier()
    sockets: HandedSockets = field(factory=HandedSockets)

    @classmethod
    def of_environment(cls, environ: MutableMapping[str, str], config: Config, *, ready_fd: int | None) -> "Starter":
        """What the environment says to this process, and to no program that it starts. Raises `CannotStart`."""
        notifier = Notifier.of_environment(environ, os.getpid())
        try:
            sockets = HandedSockets.of_environment(environ, os.getpid())
        except (BadHandover, OSError) as error:
            raise CannotStart(f"the service manager's sockets cannot be used: {error}.", CONFIG) from error
        for left in sockets.left_by(asked_addresses(config)):
            raise CannotStart(
                f'the service manager listens at {left.endpoint} for us (as "{left.name}"), but no listener of the '
                f'configuration does. Add one with "address": "{left.endpoint}", or take it out of the socket unit.',
                CONFIG,
            )
        return cls(ready_fd, notifier, sockets)

    def tell_ready(self, listeners: Sequence[tuple[str, Endpoint]], web: Endpoint | None, control: str) -> None:
        """Every listener accepts."""
        if self.ready_fd is not None:
            announce(self.ready_fd, listeners, web, control)
        self.notifier.ready(f"{_SERVING} at {', '.join(str(end) for _, end in listeners)}")

    def tell_reloading(self) -> None:
        """What may change without a new start is read again."""
        self.notifier.reloading(time.monotonic_ns())

    def tell_reloaded(self) -> None:
        """It was read, or was not fit: the log says which."""
        self.notifier.ready(_SERVING)

    def tell_stopping(self, seconds: float) -> None:
        """No client is taken any more; `seconds` remain for those who are there."""
        self.notifier.stopping(f"Draining: what runs has {seconds:g} s to finish" if seconds else "Stopping now")


def asked_addresses(config: Config) -> list[str]:
    """The addresses at which mail, or an authority's question by http-01, is waited for."""
    asked = [listener.address for listener in effective_listeners(config)]
    lets_encrypt = config.tls.lets_encrypt
    if config.tls.enabled and lets_encrypt.enabled and lets_encrypt.challenge == "http-01":
        asked.append(lets_encrypt.http_addr)
    return asked


def announce(descriptor: int, listeners: Sequence[tuple[str, Endpoint]], web: Endpoint | None, control: str) -> None:
    """Write `{"listeners": [{"name", "host", "port"}], "web": {"host", "port"}, "control", "pid"}` and close.

    Raises `OSError` for a descriptor that nobody opened.
    """
    line = orjson.dumps(
        {
            "pid": os.getpid(),
            "listeners": [{"name": name, "host": end.host, "port": end.port} for name, end in listeners],
            "web": None if web is None else {"host": web.host, "port": web.port},
            "control": control,
        }
    )
    with os.fdopen(descriptor, "wb") as pipe:
        pipe.write(line + b"\n")
