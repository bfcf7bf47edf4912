"""Keeps a running server on its configuration when that is read again.

What is sound is taken over at once, as far as it can be (`config.reload`); what is not leaves everything as it is, and
the log says why. What is not here: certificates (`tls.server`), or when to do it (`supervisor.serving`).
Failure raised: `CannotStart`, by plugins at the start alone.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio
from attrs import define, evolve
from structlog.typing import FilteringBoundLogger

from elemta.config.load import Loaded
from elemta.config.problems import ConfigError
from elemta.config.reload import Reloaded, take_over
from elemta.config.sections import Config
from elemta.config.wanted import wanted_plugins
from elemta.inbound.plugged import Plugins
from elemta.storage.keyvalue import KeyValueStore
from elemta.supervisor.build import Site, make_settings
from elemta.supervisor.failures import CannotStart, reason_of
from elemta.supervisor.server import Server

if TYPE_CHECKING:
    from elemta.supervisor.generations import Generation, Generations

#: Problems of a configuration that one log line tells; `elemta config check` tells all.
MAX_PROBLEMS_TOLD: Final = 20


@define
class ConfigSource:
    """The configuration that holds, and how to read it again: `reread` blocks, and raises `ConfigError`."""

    config: Config
    reread: Callable[[], Loaded]

    def read(self) -> tuple[Reloaded, list[str]]:
        """What would hold if it were taken over now, and what to know of it. Blocks. Raises `ConfigError`."""
        loaded = self.reread()
        return take_over(self.config, loaded.config), [str(warning) for warning in loaded.warnings]


def tell_failure(error: Exception, log: FilteringBoundLogger) -> None:
    """Say that what was read is not taken over."""
    problems = [str(problem) for problem in error.problems] if isinstance(error, ConfigError) else [str(error)]
    log.error(
        "config.reload_failed",
        problems=problems[:MAX_PROBLEMS_TOLD],
        kept="the configuration as it was",
        # Anything else is our defect, which must not end a server that runs well.
        exc_info=None if isinstance(error, ConfigError | CannotStart) else error,
    )


class Reloader:
    """Keeps one server on its configuration. `houses` is where plugins live."""

    def __init__(
        self, source: ConfigSource, site: Site, houses: trio.Nursery, *, make_state: Callable[[], KeyValueStore]
    ) -> None:
        """`make_state` makes the store of what plugins keep."""
        self._source = source
        self._site = site
        self._houses = houses
        self._make_state = make_state
        self._log = site.watch.log
        self._generations: Generations | None = None
        self._lock = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)

    @property
    def has_plugins(self) -> bool:
        """Whether there were any since the start."""
        return self._generations is not None

    async def first_plugins(self) -> Plugins | None:
        """The plugins to begin with, started. Raises `CannotStart`."""
        generation = await self._start_plugins(self._source.config)
        if generation is None:
            return None
        self._go_on_with(generation, None)
        return generation.plugins

    async def reload(self, server: Server) -> None:
        """Read the configuration again, and take over what can be. A second call waits for the first."""
        async with self._lock:
            try:
                found, warnings = await self._site.world.runtime.threads.run(self._limiter, self._source.read)
                settings = make_settings(found.config, self._site, None)
                generation = await self._start_plugins(found.config)
            except Exception as error:
                tell_failure(error, self._log)
                return
            server.adopt(evolve(settings, plugins=None if generation is None else generation.plugins))
            self._source.config = found.config
            if generation is not None:
                self._go_on_with(generation, server)
            told = {"warnings": warnings} if warnings else {}
            self._log.info("config.reloaded", changed=list(found.changed), after_restart=list(found.at_start), **told)

    async def _start_plugins(self, config: Config) -> "Generation | None":
        """The plugins of a configuration; None where there never were any. Raises `CannotStart`."""
        if self._generations is None:
            if not wanted_plugins(config):
                return None
            # Late: who has no plugins does not pay for them.
            from elemta.supervisor.generations import Generations

            site = self._site
            self._generations = Generations(site.world, site.watch, self._houses, make_state=self._make_state)
        try:
            return await self._generations.start(config)
        except BaseExceptionGroup as group:
            raise reason_of(group) from group

    def _go_on_with(self, generation: "Generation", server: Server | None) -> None:
        assert self._generations is not None
        self._generations.go_on_with(generation, lambda plugins: server is not None and server.uses(plugins))
