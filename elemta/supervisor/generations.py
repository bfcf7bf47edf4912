"""The plugins of a running server, one generation after the other.

A reload starts the next ones beside those that are asked; whoever is there keeps the plugins it began with, and these
stop when nobody has them any more. What they keep in the key-value store is one for all generations. What is not here:
starting and stopping plugins (`supervisor.plugins`). Failure raised: `CannotStart`.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import trio
from attrs import field, frozen

from elemta.config.sections import Config
from elemta.inbound.plugged import Plugins
from elemta.observe.watch import Watch
from elemta.storage.keyvalue import KeyValueStore
from elemta.supervisor.build import World
from elemta.supervisor.plugins import opened, plugins_of, watchdog_of

#: Seconds between two looks whether anybody has the plugins of an earlier generation.
LOOK_SECONDS: Final = 1.0

#: What gives the plugins of a configuration, as `plugins_of` does.
OpenPlugins = Callable[..., AbstractAsyncContextManager[Plugins | None]]


@frozen(eq=False)
class Generation:
    """Plugins that run until `over` is set."""

    plugins: Plugins | None
    over: trio.Event = field(factory=trio.Event)


class Generations:
    """Starts generations in a nursery, where they live until it ends."""

    def __init__(
        self,
        world: World,
        watch: Watch,
        nursery: trio.Nursery,
        *,
        make_state: Callable[[], KeyValueStore],
        open_plugins: OpenPlugins | None = None,
    ) -> None:
        """`make_state` makes the store of what plugins keep; it is called once, and the store opened here.

        `open_plugins` is `plugins_of` when None; that is the real world, where a thread watches them.
        """
        self._world = world
        self._watch = watch
        self._nursery = nursery
        self._make_state = make_state
        self._open_plugins = open_plugins or plugins_of
        self._is_watched = open_plugins is None
        self._state: KeyValueStore | None = None
        self._current: Generation | None = None

    async def start(self, config: Config) -> Generation:
        """Start the plugins of a configuration beside those that run. Raises `CannotStart`: then none of them do."""
        if self._state is None:
            self._state = await self._nursery.start(self._keep_open, self._make_state())
        generation: Generation = await self._nursery.start(self._live, config, self._state)
        return generation

    def go_on_with(self, generation: Generation, is_used: Callable[[Plugins], bool]) -> None:
        """It has taken the place of the one before, which ends as soon as `is_used` says that nobody has it."""
        before, self._current = self._current, generation
        if before is not None:
            self._nursery.start_soon(self._retire, before, is_used)

    async def _keep_open(
        self, state: KeyValueStore, *, task_status: trio.TaskStatus[KeyValueStore] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with opened(state), trio.open_nursery() as nursery:
            if self._is_watched:
                await nursery.start(watchdog_of(self._watch).run)
            task_status.started(state)
            await trio.sleep_forever()

    async def _live(self, config: Config, state: KeyValueStore, *, task_status: trio.TaskStatus[Generation]) -> None:
        async with self._open_plugins(config, self._world, self._watch, state=state) as plugins:
            generation = Generation(plugins)
            task_status.started(generation)
            await generation.over.wait()

    async def _retire(self, generation: Generation, is_used: Callable[[Plugins], bool]) -> None:
        while generation.plugins is not None and is_used(generation.plugins):  # noqa: ASYNC110  # nobody would set it
            await trio.sleep(LOOK_SECONDS)
        generation.over.set()
