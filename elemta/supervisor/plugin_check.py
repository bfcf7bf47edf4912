"""Plugins without a server: made as the server makes them, never started.

What is not here: starting them (`supervisor.plugins`), or what is printed of them (`cli`). A plugin that is made here
has the real parts of the world in its hands, but no task runs, and nothing is called: what its `start` would find is
not found here. Failure raised: none; problems are paragraphs.
"""

from collections.abc import Callable
from pathlib import Path

import structlog

from elemta.config.sections import Config
from elemta.config.wanted import wanted_plugins
from elemta.net.sockets import SystemNetwork
from elemta.plugins.api import Host
from elemta.plugins.host import Facilities
from elemta.plugins.loader import Found, PluginsUnusable, known_plugins, load_plugins
from elemta.plugins.tasks import TaskKeeper
from elemta.resolver.cache import CachingResolver
from elemta.resolver.dns import DnsResolver
from elemta.runtime.world import system_runtime
from elemta.storage.keyvalue_memory import MemoryKeyValue
from elemta.supervisor.plugins import plugin_folder, route_names


def plugin_problems(config: Config) -> tuple[str, ...]:
    """Everything that would keep the plugins of this configuration from being made; empty when nothing would."""
    wanted = wanted_plugins(config)
    if not wanted:
        return ()
    try:
        load_plugins(wanted, known_plugins(plugin_folder(config)), idle_hosts(config))
    except PluginsUnusable as error:
        return error.problems
    return ()


def every_plugin(config: Config) -> tuple[dict[str, Found], tuple[str, ...]]:
    """The plugins that there are, whether or not they are turned on, and what is wrong with their folder."""
    try:
        return known_plugins(Path(config.plugins.plugin_path)), ()
    except PluginsUnusable as error:
        return known_plugins(None), error.problems


def idle_hosts(config: Config) -> Callable[[str], Host]:
    """Hosts for plugins that are made and not started."""
    runtime = system_runtime()
    log = structlog.wrap_logger(None, processors=[_drop])
    facilities = Facilities(
        hostname=config.hostname,
        log=log,
        clock=runtime.clock,
        network=SystemNetwork(),
        resolver=CachingResolver(DnsResolver(runtime.threads)),
        threads=runtime.threads,
        keeper=TaskKeeper(log),
        shared_of=MemoryKeyValue(runtime.clock).of,
        routes=route_names(config),
    )
    return facilities.host


def _drop(*_: object) -> structlog.typing.EventDict:
    raise structlog.DropEvent
