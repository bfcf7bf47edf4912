"""The key-value store of a plugin of protection, left alone for a while once it failed.

What is not here: what is kept in it, what a plugin does without it (`counters`, `greylisting`). A store that is away is
no failure of the plugin: it has an answer of its own for that, so that its `on_error` does not hold, and the chain
never leaves it alone for it. The log tells once a minute. Failures raised: cancellation, and those of the work but
`SharedAway`.
"""

from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, TypeVar

import trio

from elemta.plugins.api import Host, SharedAway

#: Seconds that the store has for one piece of work, waiting for it included; a client waits meanwhile.
SHARED_SECONDS: Final = 2.0
#: Seconds for which a store that failed is not asked again: a mail of a hundred recipients waits for it once.
REST_SECONDS: Final = 5.0
#: Seconds between two log lines about that.
LOG_SECONDS: Final = 60.0

T = TypeVar("T")


class SharedState:
    """The store as one plugin asks it. `meanwhile` tells the operator what holds while it is away."""

    def __init__(self, host: Host, *, meanwhile: str) -> None:
        self._host = host
        self._meanwhile = meanwhile
        self._rests_until = self._next_log = -inf

    @property
    def rests(self) -> bool:
        """Whether it is left alone."""
        return trio.current_time() < self._rests_until

    async def ask(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """What comes of work that asks the store; None while it does not answer."""
        if self.rests:
            return None
        with trio.move_on_after(SHARED_SECONDS):
            try:
                return await work()
            except SharedAway as error:
                self._rest(str(error))
                return None
        self._rest(f"no answer within {SHARED_SECONDS:g} s")
        return None

    def _rest(self, error: str) -> None:
        if self.rests:  # others heard it before
            return
        now = trio.current_time()
        self._rests_until = now + REST_SECONDS
        if now >= self._next_log:
            self._next_log = now + LOG_SECONDS
            self._host.log.warning("plugin.shared_away", error=error, remedy=self._meanwhile)
