"""The plugins that a configuration asks for, with what must run beside them.

What is not here: finding and calling them (`plugins`), or what they are asked when (`inbound`, `queue`).
Failure raised: `CannotStart`, in words for who wrote the configuration.
"""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from elemta.config.sections import Config
from elemta.config.wanted import wanted_plugins
from elemta.inbound.plugged import Plugins
from elemta.observe.watch import Watch
from elemta.plugins.api import Plugin, SharedAway
from elemta.plugins.chain import Chain, Member, asked_in
from elemta.plugins.containment import to_pass
from elemta.plugins.host import Facilities
from elemta.plugins.leftovers import closing
from elemta.plugins.loader import Found, PluginsUnusable, known_plugins, load_plugins, words_of
from elemta.plugins.tasks import TaskKeeper, run_in
from elemta.plugins.watchdog import Watchdog
from elemta.storage.keyvalue import KeyValueStore
from elemta.supervisor.build import World
from elemta.supervisor.failures import CONFIG, CannotStart

#: Seconds that one plugin may take to start: it may fetch something.
START_SECONDS = 30.0
#: Seconds that all plugins have to stop.
STOP_SECONDS = 5.0


def plugin_folder(config: Config) -> Path | None:
    """Where plugins of the operator's own lie."""
    return Path(config.plugins.plugin_path) if config.plugins.enabled else None


@asynccontextmanager
async def plugins_of(
    config: Config,
    world: World,
    watch: Watch,
    *,
    state: KeyValueStore,
    offered: Mapping[str, type[Plugin]] | None = None,
) -> AsyncIterator[Plugins | None]:
    """The plugins, started, for the block; None when the configuration asks for none. Raises `CannotStart`.

    `state` has what they keep; it is open and runs. `offered` are plugins beside those that are installed.
    """
    wanted = wanted_plugins(config)
    if not wanted:
        yield None
        return
    keeper = TaskKeeper(watch.log)
    facilities = _facilities(config, world, watch, keeper=keeper, store=state)
    try:
        given = {name: Found(name, one.__module__, partial(_as_is, one)) for name, one in (offered or {}).items()}
        members = load_plugins(wanted, {**known_plugins(plugin_folder(config)), **given}, facilities.host)
    except PluginsUnusable as error:
        raise CannotStart(str(error), CONFIG) from None
    chain = Chain(members, log=watch.log, metrics=watch.metrics)
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        await nursery.start(chain.run)
        started: list[Member] = []
        try:
            for member in chain.members:
                await _start(member)
                started.append(member)
            watch.log.info("plugins.ready", plugins=[member.name for member in chain.members])
            yield Plugins(chain, keeper, route_names(config))
        finally:
            with trio.move_on_after(STOP_SECONDS, shield=True):
                await _stop(started, watch)
            nursery.cancel_scope.cancel()


def watchdog_of(watch: Watch) -> Watchdog:
    """What names the plugin that blocks the event loop, one for all that run."""
    return Watchdog({Chain.ask_on.__code__: asked_in, TaskKeeper.run_one.__code__: run_in}, watch.log)


def _as_is(plugin_class: type[Plugin]) -> type[Plugin]:
    return plugin_class


def _facilities(config: Config, world: World, watch: Watch, *, keeper: TaskKeeper, store: KeyValueStore) -> Facilities:
    runtime = world.runtime
    return Facilities(
        hostname=config.hostname,
        log=watch.log,
        clock=runtime.clock,
        network=world.network,
        resolver=world.resolver,
        threads=runtime.threads,
        keeper=keeper,
        shared_of=store.of,
        routes=route_names(config),
    )


def route_names(config: Config) -> frozenset[str]:
    """The names that plugins may send a mail by."""
    return frozenset(route.name for route in config.routes if route.name)


@asynccontextmanager
async def opened(store: KeyValueStore) -> AsyncIterator[None]:
    """Have the store open and running for the block. Raises `CannotStart`."""
    try:
        await store.open()
    except SharedAway as error:
        raise CannotStart(f"what plugins keep cannot be opened: {error}") from error
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            yield
            nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(STOP_SECONDS, shield=True):
            await store.close()


async def _start(member: Member) -> None:
    with trio.move_on_after(START_SECONDS) as scope:
        try:
            await closing(member.plugin.start)
        except BaseException as error:  # noqa: ASYNC103  # what must pass does
            if (passing := to_pass(error)) is not None:
                raise passing from None  # noqa: ASYNC104  # as above
            says = words_of(error, _file_of(member.plugin))
            raise CannotStart(f'the plugin "{member.name}" cannot start: {says}') from error  # noqa: ASYNC104  # as above
    if scope.cancelled_caught:
        raise CannotStart(f'the plugin "{member.name}" cannot start: it took more than {START_SECONDS:g} seconds.')


def _file_of(plugin: Plugin) -> str:
    return getattr(sys.modules.get(type(plugin).__module__), "__file__", None) or ""


async def _stop(members: list[Member], watch: Watch) -> None:
    for member in members:
        try:
            await closing(member.plugin.stop)
        except BaseException as error:  # noqa: ASYNC103  # what must pass does
            if (passing := to_pass(error)) is not None:
                raise passing from None  # noqa: ASYNC104  # as above
            watch.log.error("plugin.failed", plugin=member.name, stage="stop", error=repr(error), exc_info=error)
