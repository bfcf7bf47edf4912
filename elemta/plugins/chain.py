"""The plugins of a server, asked one after the other, each contained.

A call has a deadline; what it raises, answers late or answers wrongly becomes the policy that the plugin, or the
configuration, declares (`OnError`); one that keeps failing is left alone for a while. What is not here: what the server
does with a verdict (`inbound.plugged`, `queue`), how plugins are found (`plugins.loader`).

One cancel scope for all calls of a stage, as long as none overran (one a call would cost 6 to 12 µs), and a deadline
that is a plain number: one task looks after all of them, as `inbound.session` does it. A plugin that swallows its
cancellation keeps its own session, and nothing else, until it ends by itself; the log names it.
Failures raised: none of a plugin's; cancellation passes.
"""

import dis
from collections.abc import Awaitable, Callable, Mapping, Sequence
from inspect import iscoroutinefunction
from math import inf
from typing import Any, Final, Protocol

import trio
from attrs import Factory, define, field, frozen
from structlog.typing import FilteringBoundLogger

from elemta.observe.metrics import Metrics
from elemta.plugins.api import ContentAway, OnError, Plugin, PluginFailed, Stage
from elemta.plugins.breaker import REST_SECONDS, Breaker
from elemta.plugins.containment import to_pass
from elemta.plugins.costs import Ledger
from elemta.plugins.leftovers import LeftOpen, close_left_open, nurseries_in, open_in
from elemta.plugins.verdicts import CONTINUE, Change, Continue, Defer, Discard, Quarantine, Reject, Verdict
from elemta.runtime.watch import DeadlineWatch

#: Seconds between two looks at the deadlines: so late a call may be ended, of the seconds it was given.
DEADLINE_REST_SECONDS: Final = 0.1
#: Seconds beyond its deadline after which a call that cannot be ended is told of.
STUCK_SECONDS: Final = 10.0
#: Seconds below which a failure is not one of those that have a plugin left alone: it cost nobody anything, and a mail
#: that is made to let a filter fail must not switch it off for everybody else's.
QUICK_SECONDS: Final = 0.5
#: Threads of one plugin that is declared `blocking`.
BLOCKING_THREADS: Final = 4
#: Characters of an error in the log.
_ERROR_CHARACTERS: Final = 500
#: Seconds between two log lines about failures of one plugin: who can make it fail must not fill the log.
FAILURE_LOG_SECONDS: Final = 10.0

_NOT_NOW = Defer("a filter of this server fails, try again later", 451, "4.3.0")
_NO_CONTENT = Defer("the mail cannot be read now, try again later", 451, "4.3.0")
_NOT_EVER = Reject("a filter of this server fails, and nothing passes without it", 550, "5.3.0")
_POLICY: Final[Mapping[OnError, Verdict]] = {
    OnError.ACCEPT: CONTINUE,
    OnError.DEFER: _NOT_NOW,
    OnError.REJECT: _NOT_EVER,
}

_SESSION_VERDICTS: Final = frozenset({Continue, Reject, Defer})
_MAIL_VERDICTS: Final = frozenset({Continue, Reject, Defer, Discard, Quarantine})
#: What may be answered at a stage; nothing is expected at the stages that are not here.
VERDICTS: Final[Mapping[Stage, frozenset[type]]] = {
    Stage.CONNECT: _SESSION_VERDICTS,
    Stage.HELO: _SESSION_VERDICTS,
    Stage.AUTH: _SESSION_VERDICTS,
    Stage.MAIL_FROM: _MAIL_VERDICTS,
    Stage.RCPT_TO: _MAIL_VERDICTS,
    Stage.DATA_HEADERS: _MAIL_VERDICTS,
    Stage.DATA_COMPLETE: _MAIL_VERDICTS,
    Stage.PRE_DELIVERY: frozenset({Continue, Reject, Defer, Quarantine}),
}
#: Instructions of coroutines that may suspend them.
_WAITING: Final = frozenset({"GET_AWAITABLE", "GET_ANEXT", "SEND", "YIELD_VALUE", "YIELD_FROM"})
_NAMES: Final[Mapping[type, str]] = {one: one.__name__.lower() for one in _MAIL_VERDICTS}


class Subject(Protocol):
    """What plugins are asked about: keeps what they cost, takes their changes."""

    @property
    def ledger(self) -> Ledger:
        """What they cost."""
        ...

    def apply(self, changes: Sequence[Change]) -> None:
        """Make their changes. Raises `ValueError`."""
        ...


@define(eq=False)
class Member:
    """One plugin of the chain, with what the configuration says of it."""

    name: str
    plugin: Plugin
    priority: int
    deadline: float
    on_error: OnError
    breaker: Breaker = field(factory=Breaker)
    #: Until when its failures are counted and not told, on Trio's clock; how many were not.
    told_until: float = 0.0
    untold: int = 0


@frozen(eq=False)
class _Hook:
    member: Member
    stage: Stage
    call: Callable[..., Awaitable[object]]
    #: It runs to its end at once: it needs no cancel scope, which would cost more than most such hooks do.
    never_waits: bool = False
    #: The member's, at hand.
    name: str = field(default=Factory(lambda hook: hook.member.name, takes_self=True))
    breaker: Breaker = field(default=Factory(lambda hook: hook.member.breaker, takes_self=True))


class _Run:
    """One stage of one session, mail or delivery, while its plugins are asked."""

    verdict: Verdict = CONTINUE
    place = 0
    #: The task that asks, and what is open in it before.
    task: trio.lowlevel.Task
    before: object = None
    nurseries = 0
    scope: trio.CancelScope
    #: Whether the scope was cancelled for the sake of a deadline.
    is_late = False
    started = 0.0
    due = inf
    stuck_at = inf

    def __init__(self, hooks: tuple[_Hook, ...], subject: Subject, arguments: tuple[object, ...]) -> None:
        self.hooks = hooks
        self.subject = subject
        self.arguments = arguments

    def take(self, verdict: Verdict) -> None:
        """The one that was asked has decided: on to the next, or to the end."""
        self.place += 1
        if type(verdict) is Quarantine:
            self.verdict = verdict if self.verdict is CONTINUE else self.verdict
        elif type(verdict) is not Continue:
            self.verdict = verdict
            self.place = len(self.hooks)


class Chain:
    """The plugins of a server in the order of their priorities, the highest first, then as they are configured."""

    def __init__(self, members: Sequence[Member], *, log: FilteringBoundLogger, metrics: Metrics) -> None:
        self.members = sorted(members, key=lambda member: -member.priority)
        self._log = log
        self._metrics = metrics
        self._hooks = {stage: tuple(_hooks(self.members, stage)) for stage in Stage}
        self._asked = frozenset(stage for stage, hooks in self._hooks.items() if hooks)
        self._never_waits = {stage: all(hook.never_waits for hook in hooks) for stage, hooks in self._hooks.items()}
        #: How long the plugins of a stage may make others wait, all together.
        self.seconds: Mapping[Stage, float] = {
            stage: sum(one.member.deadline for one in hooks if not one.never_waits)
            for stage, hooks in self._hooks.items()
        }
        self._runs: set[_Run] = set()
        self._took = metrics.plugin_seconds
        for member in self.members:
            self._took[member.name] += 0.0  # one that is never asked has a counter all the same
        self._current_time = trio.current_time
        self._watch = DeadlineWatch(self._end_overdue, rest_seconds=DEADLINE_REST_SECONDS)

    def has(self, stage: Stage) -> bool:
        """Whether any plugin wants to be asked there: otherwise nothing need be prepared for it."""
        return stage in self._asked

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after the deadlines until cancelled."""
        # `trio.current_time` looks the clock up each time.
        self._current_time = trio.lowlevel.current_clock().current_time
        task_status.started()
        await self._watch.run()

    def _end_overdue(self, now: float) -> float:
        earliest = inf
        for run in self._runs:
            if run.due <= now:
                run.due = inf
                run.stuck_at = now + STUCK_SECONDS
                run.is_late = True
                run.scope.cancel()
            elif run.stuck_at <= now:
                run.stuck_at = inf
                self._log.error(
                    "plugin.does_not_end",
                    plugin=run.hooks[run.place].member.name,
                    stage=run.hooks[run.place].stage.value,
                    remedy="it swallows its cancellation: a bare `except:` around an await does that",
                )
            earliest = min(earliest, run.due, run.stuck_at)
        return earliest

    # ---- asking --------------------------------------------------------------------------------------

    def ask(self, stage: Stage, subject: Subject, *arguments: object) -> Awaitable[Verdict]:
        """The first verdict that is not to go on; `Continue` when all go on. Changes are made on the way.

        Behind a `Quarantine` the others are asked all the same: one may refuse what another would only hold.
        """
        run = _Run(self._hooks[stage], subject, arguments)
        # Where no hook waits nothing could be cancelled, or be late but by blocking the loop.
        return self.ask_on(run) if self._never_waits[stage] else self._ask_within(run)

    async def _ask_within(self, run: _Run) -> Verdict:
        """Ask all, each within its deadline."""
        self._runs.add(run)
        try:
            while run.place < len(run.hooks):
                run.is_late = False
                with trio.CancelScope() as run.scope:
                    await self.ask_on(run)
                if run.scope.cancelled_caught:
                    run.take(self._overrun(run, run.hooks[run.place]))
        finally:
            self._runs.discard(run)
        return run.verdict

    async def ask_on(self, run: _Run) -> Verdict:
        """Ask those that are left, until one overruns; the verdict so far.

        What goes on without a word costs as little as can be. The watchdog knows this function's frames: `asked_in`.
        """
        hooks, arguments, ledger = run.hooks, run.arguments, run.subject.ledger
        seconds, in_all, current_time = ledger.seconds, self._took, self._current_time
        run.task = task = trio.lowlevel.current_task()
        run.before = before = open_in(task)
        run.nurseries = nurseries_in(task)
        run.started = now = current_time()
        while run.place < len(hooks) and not run.is_late:
            hook = hooks[run.place]
            name, breaker = hook.name, hook.breaker
            if breaker.failures and not breaker.allows(now):
                run.take(self._spared(run, hook))
                continue
            ledger.asked = name
            if not hook.never_waits:
                run.due = due = now + hook.member.deadline
                self._watch.note(due)
            answer: object = None
            error: BaseException | None = None
            try:
                answer = await hook.call(*arguments)
            except BaseException as raised:  # noqa: ASYNC103  # what must pass `_ended` raises
                error = raised
            run.due = run.stuck_at = inf
            if error is not None or open_in(task) is not before:
                answer = await self._ended(run, hook, error)
            now = current_time()
            took = now - run.started
            in_all[name] += took
            seconds[name] = seconds.get(name, 0.0) + took
            if answer is CONTINUE and not breaker.failures and not run.is_late:
                run.place += 1
            else:
                run.take(self._taken(run, hook, answer))
            run.started = now
        return run.verdict

    async def _ended(self, run: _Run, hook: _Hook, error: BaseException | None) -> object:
        """What stands for the answer of a call that raised, or left something open. Raises what must pass."""
        if open_in(run.task) is not run.before:
            await close_left_open(run.task, run.before, run.nurseries)
            error = error or LeftOpen()
        assert error is not None
        passing = to_pass(error)
        if passing is None:
            return _Raised(error)
        if passing is not error:
            self._failed(run, hook, "raised", error)
        hook.member.breaker.forget_probe()
        raise passing from None

    async def tell(self, stage: Stage, subject: Subject, *arguments: object) -> None:
        """Let the plugins know; nothing they answer matters."""
        await self.ask(stage, subject, *arguments)

    def _taken(self, run: _Run, hook: _Hook, answer: object) -> Verdict:
        """A plugin's answer, once it is sound and its changes are made."""
        if isinstance(answer, _Raised) and isinstance(answer.error, ContentAway):
            return _NO_CONTENT if hook.stage in VERDICTS else CONTINUE
        if isinstance(answer, _Raised):
            return self._failed(run, hook, "raised", answer.error)
        if run.is_late:
            return self._failed(run, hook, "took too long")
        allowed = VERDICTS.get(hook.stage)
        if allowed is None:
            answer = CONTINUE
        elif type(answer) not in allowed:
            return self._failed(run, hook, f"answered {_words(answer)}")
        verdict: Verdict = answer  # type: ignore[assignment]  # its type was looked up
        changes = verdict.changes if isinstance(verdict, Continue | Quarantine) else ()
        if changes:
            try:
                run.subject.apply(changes)
            except Exception as error:
                return self._failed(run, hook, "asked for what cannot be", error)
        if hook.member.breaker.succeeded():
            self._log.info("plugin.back", plugin=hook.member.name)
        self._account(run, hook, verdict, changes=len(changes))
        return verdict

    def _overrun(self, run: _Run, hook: _Hook) -> Verdict:
        took = self._current_time() - run.started
        self._took[hook.name] += took
        seconds = run.subject.ledger.seconds
        seconds[hook.name] = seconds.get(hook.name, 0.0) + took
        return self._failed(run, hook, "took too long")

    # ---- failing -------------------------------------------------------------------------------------

    def _spared(self, run: _Run, hook: _Hook) -> Verdict:
        run.subject.ledger.of(hook.member.name).verdict = "left alone after failures"
        return self._policy(hook)

    def _policy(self, hook: _Hook) -> Verdict:
        return _POLICY[hook.member.on_error] if hook.stage in VERDICTS else CONTINUE

    def _failed(self, run: _Run, hook: _Hook, how: str, error: BaseException | None = None) -> Verdict:
        member = hook.member
        now = trio.current_time()
        run.subject.ledger.of(member.name).verdict = f"failed: {how}"
        self._metrics.plugin_failures.labels(plugin=member.name).inc()
        if now >= member.told_until:
            member.told_until = now + FAILURE_LOG_SECONDS
            untold, member.untold = member.untold, 0
            self._log.error(
                "plugin.failed",
                plugin=member.name,
                stage=hook.stage.value,
                how=how,
                error="" if error is None else f"{type(error).__name__}: {_words(error)}"[:_ERROR_CHARACTERS],
                policy=member.on_error.value,
                seconds=round(now - run.started, 3),
                **({"untold": untold} if untold else {}),
                exc_info=None if isinstance(error, PluginFailed) else error,
            )
        else:
            member.untold += 1
        is_slow = now - run.started >= QUICK_SECONDS
        if (is_slow or member.breaker.is_open) and member.breaker.failed(now):
            self._log.error("plugin.left_alone", plugin=member.name, seconds=REST_SECONDS, policy=member.on_error.value)
        return self._policy(hook)

    def _account(self, run: _Run, hook: _Hook, verdict: Verdict, *, changes: int) -> None:
        if verdict is CONTINUE:
            return
        ledger, name = run.subject.ledger, hook.member.name
        share = ledger.of(name)
        share.changes += changes
        share.score += verdict.score
        ledger.score += verdict.score
        if type(verdict) is not Continue:
            share.verdict = _NAMES[type(verdict)]
            self._metrics.plugin_verdicts.labels(plugin=name, verdict=share.verdict).inc()


def _words(thing: object) -> str:
    """What a plugin raised or answered, in words of its own if it has any."""
    try:
        return str(thing) if isinstance(thing, BaseException) else f"{thing!r:.80}"
    except (Exception, SystemExit, GeneratorExit):  # its words are a plugin's code
        return f"something without words ({type(thing).__name__})"


def asked_in(frame: Mapping[str, Any]) -> tuple[str, str]:
    """The plugin that is asked in a frame of `Chain.ask_on`, and the stage; `frame` are its local variables."""
    hook: _Hook = frame["hook"]
    return hook.member.name, hook.stage.value


@frozen
class _Raised:
    """What a plugin raised in place of an answer."""

    error: BaseException


def _hooks(members: Sequence[Member], stage: Stage) -> list[_Hook]:
    """The hooks that are overridden: the others cost nothing."""
    name = f"on_{stage.value}"
    found: list[_Hook] = []
    for member in members:
        own: Any = getattr(type(member.plugin), name, None)
        wanted = member.plugin.stages
        if own is getattr(Plugin, name) or (wanted is not None and stage not in wanted):
            continue
        method = getattr(member.plugin, name)
        if member.plugin.blocking:
            found.append(_Hook(member, stage, _in_thread(member.plugin, method)))
        else:
            found.append(_Hook(member, stage, method, never_waits=_never_waits(method)))
    return found


def _never_waits(method: Callable[..., object]) -> bool:
    """Whether a coroutine function has no `await` in it, nor `async with`, `async for`: it cannot be suspended.

    Seen from its instructions: each of these gets an awaitable first.
    """
    function = getattr(method, "__func__", method)
    code = getattr(function, "__code__", None)
    if code is None or not iscoroutinefunction(function):
        return False
    return not any(step.opname in _WAITING for step in dis.get_instructions(code))


def _in_thread(plugin: Plugin, method: Callable[..., object]) -> Callable[..., Awaitable[object]]:
    """A hook that blocks, in a thread of a few: one that hangs is left to itself, and keeps its place among the few."""
    limiter = trio.CapacityLimiter(BLOCKING_THREADS)
    threads = plugin.host.threads

    async def call(*arguments: object) -> object:
        return await threads.run_abandonable(limiter, method, *arguments)

    return call
