"""What may leave a plugin's call.

What is not here: what becomes of a mail whose plugin failed (`plugins.chain`). Our own cancellation and
`KeyboardInterrupt` always pass; everything else ends with the call, a plugin's own `BaseException`, `SystemExit` and
`GeneratorExit` included, and a `trio.Cancelled` that it kept from somewhere where nothing is cancelled now.
"""

from math import inf

import trio


def to_pass(error: BaseException) -> BaseException | None:
    """The part of what a plugin raised that must go on its way: the error itself, a group with less in it, or None.

    To be called in the task that called the plugin.
    """
    if isinstance(error, Exception):
        return None
    is_cancelled = trio.current_effective_deadline() == -inf
    if isinstance(error, BaseExceptionGroup):
        passing, _ = error.split(lambda one: _passes(one, is_cancelled))
        return passing
    return error if _passes(error, is_cancelled) else None


def _passes(error: BaseException, is_cancelled: bool) -> bool:
    return isinstance(error, KeyboardInterrupt) or (is_cancelled and isinstance(error, trio.Cancelled))
