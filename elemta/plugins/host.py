"""The server as one plugin sees it.

What is not here: the parts themselves, which the supervisor hands over.
"""

from collections.abc import Awaitable, Callable, Collection

import trio
from attrs import frozen
from structlog.typing import FilteringBoundLogger

from elemta.net.base import Network
from elemta.plugins.api import KeyValue
from elemta.plugins.tasks import TaskKeeper
from elemta.resolver.base import Resolver
from elemta.runtime.clock import Clock
from elemta.runtime.threads import Threads


@frozen
class Facilities:
    """What all plugins of a server share."""

    hostname: str
    log: FilteringBoundLogger
    clock: Clock
    network: Network
    resolver: Resolver
    threads: Threads
    keeper: TaskKeeper
    #: The state of one plugin, by its name.
    shared_of: Callable[[str], KeyValue]
    #: The names of routes.
    routes: Collection[str] = ()

    def host(self, plugin: str) -> "PluginHost":
        """The `plugins.api.Host` of one plugin."""
        return PluginHost(self, plugin, self.log.bind(plugin=plugin), self.shared_of(plugin))


@frozen
class PluginHost:
    """One plugin's host."""

    _facilities: Facilities
    plugin: str
    log: FilteringBoundLogger
    shared: KeyValue

    @property
    def hostname(self) -> str:
        """The server's own name."""
        return self._facilities.hostname

    @property
    def routes(self) -> Collection[str]:
        """The names of routes that `SetRoute` may give."""
        return self._facilities.routes

    @property
    def clock(self) -> Clock:
        """Wall time."""
        return self._facilities.clock

    @property
    def network(self) -> Network:
        """Connections to other servers."""
        return self._facilities.network

    @property
    def resolver(self) -> Resolver:
        """DNS."""
        return self._facilities.resolver

    @property
    def threads(self) -> Threads:
        """For calls that block."""
        return self._facilities.threads

    def start_soon(self, function: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Run a task while the server runs. Raises `RuntimeError`."""
        self._facilities.keeper.start(self.plugin, trio.CancelScope(), function, *arguments)
