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

from elemta.config.document import Document
from elemta.config.load import Loaded
from elemta.config.problems import ConfigError, Problem, Report
from elemta.config.reload import Reloaded, take_over
from elemta.config.routes import check_local_domains
from elemta.config.sections import Config
from elemta.config.wanted import wanted_plugins
from elemta.inbound.plugged import Plugins
from elemta.storage.keyvalue import KeyValueStore
from elemta.supervisor.build import Site, make_settings
from elemta.supervisor.failures import CannotStart, reason_of
from elemta.supervisor.server import Server

if TYPE_CHECKING:
    from elemta.supervisor.generations import Generation, Generations, OpenPlugins

#: Problems of a configuration that one log line tells; `elemta config check` tells all.
MAX_PROBLEMS_TOLD: Final = 20


@define
class ConfigSource:
    """The configuration that holds, and how to read it again: `reread` blocks, and raises `ConfigError`."""

    config: Config
    reread: Callable[[], Loaded]
    #: The file that was read at the start, None when there was none.
    file: str | None = None

    def read(self) -> Reloaded:
        """What would hold if it were taken over now. Blocks. Raises `ConfigError`."""
        loaded = self.reread()
        if self.file is not None and loaded.source != self.file:
            raise ConfigError([_gone(self.file, loaded.source)])
        found = take_over(self.config, loaded.config)
        _check_without_dev(found.config, loaded.config)
        return evolve(found, warnings=[str(warning) for warning in loaded.warnings])


def _gone(file: str, other: str | None) -> Problem:
    """A file that nobody named is looked for. While it is moved away, or being replaced, nobody wants the defaults."""
    says = f"the server was started with this file; now {other or 'none'} would be read. Put it back, or start anew."
    return Problem(key="", where=file, says=says)


def _check_without_dev(config: Config, wanted: Config) -> None:
    """A server that sends mail out goes on with it, so it needs what dev mode never asks for. Raises `ConfigError`."""
    if wanted.dev_mode and not config.dev_mode:
        report = Report(Document())
        check_local_domains(config, report)
        if report.problems:
            raise ConfigError(report.problems)


def tell_failure(error: Exception, log: FilteringBoundLogger) -> str:
    """Say that what was read is not taken over; its first problem."""
    problems = str(error).split("\n\n")
    log.error(
        "config.reload_failed",
        problems=problems[:MAX_PROBLEMS_TOLD],
        kept="the configuration as it was",
        # Anything else is our defect, which must not end a server that runs well.
        exc_info=None if isinstance(error, ConfigError | CannotStart) else error,
    )
    return problems[0]


class Reloader:
    """Keeps one server on its configuration. `houses` is where plugins live."""

    def __init__(
        self,
        source: ConfigSource,
        site: Site,
        houses: trio.Nursery,
        *,
        make_state: Callable[[], KeyValueStore],
        open_plugins: "OpenPlugins | None" = None,
    ) -> None:
        """`make_state` makes the store of what plugins keep; `open_plugins` is another `plugins_of`."""
        self._source = source
        self._site = site
        self._houses = houses
        self._make_state = make_state
        self._open_plugins = open_plugins
        self._log = site.watch.log
        self._generations: Generations | None = None
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

    async def reload(self, server: Server) -> str:
        """Read the configuration again, and take over what can be; why not, empty when it was. One call at a time."""
        threads = self._site.world.runtime.threads
        try:
            # Abandonable: a file on a share that hangs must not keep the server from its end.
            found = await threads.run_abandonable(self._limiter, self._source.read)
            assert isinstance(found, Reloaded)
            settings = make_settings(found.config, self._site, None)
            generation = await self._start_plugins(found.config)
        except Exception as error:
            return tell_failure(error, self._log)
        server.adopt(evolve(settings, plugins=None if generation is None else generation.plugins))
        self._source.config = found.config
        if generation is not None:
            self._go_on_with(generation, server)
        told = {"warnings": list(found.warnings)} if found.warnings else {}
        self._log.info("config.reloaded", changed=list(found.changed), after_restart=list(found.at_start), **told)
        return ""

    async def _start_plugins(self, config: Config) -> "Generation | None":
        """The plugins of a configuration; None where there never were any. Raises `CannotStart`."""
        if self._generations is None:
            if not wanted_plugins(config):
                return None
            # Late: who has no plugins does not pay for them.
            from elemta.supervisor.generations import Generations

            site = self._site
            self._generations = Generations(
                site.world, site.watch, self._houses, make_state=self._make_state, open_plugins=self._open_plugins
            )
        try:
            return await self._generations.start(config)
        except BaseExceptionGroup as group:
            raise reason_of(group) from group

    def _go_on_with(self, generation: "Generation", server: Server | None) -> None:
        assert self._generations is not None
        self._generations.go_on_with(generation, lambda plugins: server is not None and server.uses(plugins))
