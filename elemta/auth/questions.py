"""Questions to backends that may be slow, hang, or not let themselves be cancelled.

What is not here: what is asked. A unit of work in a database runs to its own deadline whatever becomes of who waits for
it; here a question gets a task of its own, so that a client hears the answer, or that there is none, in time. What
comes later is thrown away.
Failures raised: `UsersAway`, and whatever the question itself raises.
"""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio
from attrs import define, field
from structlog.typing import FilteringBoundLogger

from elemta.auth.base import UnfitUser, UsersAway

T = TypeVar("T")

#: Questions under way at once, late ones included: more than wait for the pool of a database that answers.
MAX_QUESTIONS = 200
#: Chores under way at once; each is one login's, and may be left out.
MAX_CHORES = 32


@define(eq=False)
class _Answer(Generic[T]):
    come: trio.Event = field(factory=trio.Event)
    value: T | None = None
    error: Exception | None = None


class Questions:
    """Asks while `run` runs."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._nursery: trio.Nursery | None = None
        self._asked = 0
        self._chores = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of all questions until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    async def ask(self, question: Callable[[], Awaitable[T]], *, deadline: float) -> T:
        """The answer. Raises `UsersAway` when there is none by `deadline`, on Trio's clock."""
        nursery = self._nursery
        if nursery is None:
            raise UsersAway("the server starts or stops")
        if self._asked >= MAX_QUESTIONS:
            raise UsersAway(f"{MAX_QUESTIONS} questions wait for an answer already")
        self._asked += 1
        answer: _Answer[T] = _Answer()
        nursery.start_soon(self._carry, question, answer)
        with trio.CancelScope(deadline=deadline):
            await answer.come.wait()
        if answer.error is not None:
            raise answer.error
        if not answer.come.is_set():
            raise UsersAway("no answer in time")
        value: T = answer.value  # type: ignore[assignment]  # set with the event; None is a T where it was the answer
        return value

    async def _carry(self, question: Callable[[], Awaitable[T]], answer: _Answer[T]) -> None:
        try:
            answer.value = await question()
        except Exception as error:
            # It ends in the task that asked; without one that still waits, it is too late to matter.
            answer.error = error
        finally:
            self._asked -= 1
            answer.come.set()

    def leave(self, chore: Callable[[], Awaitable[None]]) -> bool:
        """Have something done for which nobody waits; False when too much of that is under way.

        `UsersAway` ends a chore without a word: it is done at a later login. Any other failure of one is logged: a
        table that refuses a new hash must not end the server.
        """
        if self._nursery is None or self._chores >= MAX_CHORES:
            return False
        self._chores += 1
        self._nursery.start_soon(self._do, chore)
        return True

    async def _do(self, chore: Callable[[], Awaitable[None]]) -> None:
        try:
            await chore()
        except UsersAway:
            pass
        except UnfitUser as error:
            remedy = "see what the table takes: a new hash has some 100 characters, a SCRAM verifier 140"
            self._log.warning("auth.not_kept", error=str(error), remedy=remedy)
        except Exception as error:
            self._log.error("auth.chore_failed", error=str(error), exc_info=error)
        finally:
            self._chores -= 1
