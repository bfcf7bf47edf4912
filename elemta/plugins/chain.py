"""The plugins of a server, asked one after the other, each contained.

A call has a deadline; what it raises, answers late or answers wrongly becomes the policy that the plugin, or the
configuration, declares (`OnError`); one that keeps failing is left alone for a while. What is not here: what the server
does with a verdict (`inbound.plugged`, `queue`), how plugins are found (`plugins.loader`).

One cancel scope for all calls of a stage, as long as none overran (one a call would cost 6 to 12 µs), and a deadline
that is a plain number: one task looks after all of them, as `inbound.session` does it. A plugin that swallows its
cancellation keeps its own session, and nothing else, until it ends by itself; the log names it.
Failures raised: none of a plugin's; cancellation passes.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from typing import Any, Final, Protocol

import trio
from attrs import field, frozen
from structlog.typing import FilteringBoundLogger

from elemta.observe.metrics import Metrics
from elemta.plugins.api import OnError, Plugin, Stage
from elemta.plugins.breaker import REST_SECONDS, Breaker
from elemta.plugins.containment import to_pass
from elemta.plugins.costs import Ledger
from elemta.plugins.verdicts import CONTINUE, Change, Continue, Defer, Discard, Quarantine, Reject, Verdict
from elemta.runtime.watch import DeadlineWatch

#: Seconds between two looks at the deadlines: so late a call may be ended, of the seconds it was given.
DEADLINE_REST_SECONDS: Final = 0.1
#: Seconds beyond its deadline after which a call that cannot be ended is told of.
STUCK_SECONDS: Final = 10.0
#: Threads of one plugin that is declared `blocking`.
BLOCKING_THREADS: Final = 4
#: Characters of an error in the log.
_ERROR_CHARACTERS: Final = 500

_NOT_NOW = Defer("a filter of this server fails, try again later", 451, "4.3.0")
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


@frozen(eq=False)
class Member:
    """One plugin of the chain, with what the configuration says of it."""

    name: str
    plugin: Plugin
    priority: int
    deadline: float
    on_error: OnError
    breaker: Breaker = field(factory=Breaker)


@frozen(eq=False)
class _Hook:
    member: Member
    stage: Stage
    call: Callable[..., Awaitable[object]]


class _Run:
    """One stage of one session, mail or delivery, while its plugins are asked."""

    __slots__ = ("arguments", "due", "hooks", "place", "scope", "started", "stuck_at", "subject", "verdict")

    def __init__(self, hooks: tuple[_Hook, ...], subject: Subject, arguments: tuple[object, ...]) -> None:
        self.hooks = hooks
        self.place = 0
        self.subject = subject
        self.arguments = arguments
        self.verdict: Verdict = CONTINUE
        self.scope: trio.CancelScope
        self.started = 0.0
        self.due = inf
        self.stuck_at = inf

    @property
    def is_over(self) -> bool:
        """Whether nobody is left to be asked."""
        return self.place >= len(self.hooks)

    @property
    def hook(self) -> _Hook:
        """The one that is asked now."""
        return self.hooks[self.place]

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
        self._runs: set[_Run] = set()
        self._watch = DeadlineWatch(self._end_overdue, rest_seconds=DEADLINE_REST_SECONDS)

    def has(self, stage: Stage) -> bool:
        """Whether any plugin wants to be asked there: otherwise nothing need be prepared for it."""
        return bool(self._hooks[stage])

    def seconds(self, stage: Stage) -> float:
        """How long the plugins of a stage may take together."""
        return sum(hook.member.deadline for hook in self._hooks[stage])

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after the deadlines until cancelled."""
        task_status.started()
        await self._watch.run()

    def _end_overdue(self, now: float) -> float:
        earliest = inf
        for run in self._runs:
            if run.due <= now:
                run.due = inf
                run.stuck_at = now + STUCK_SECONDS
                run.scope.cancel()
            elif run.stuck_at <= now:
                run.stuck_at = inf
                self._log.error(
                    "plugin.does_not_end",
                    plugin=run.hook.member.name,
                    stage=run.hook.stage.value,
                    remedy="it swallows its cancellation: a bare `except:` around an await does that",
                )
            earliest = min(earliest, run.due, run.stuck_at)
        return earliest

    # ---- asking --------------------------------------------------------------------------------------

    async def ask(self, stage: Stage, subject: Subject, *arguments: object) -> Verdict:
        """The first verdict that is not to go on; `Continue` when all go on. Changes are made on the way.

        Behind a `Quarantine` the others are asked all the same: one may refuse what another would only hold.
        """
        run = _Run(self._hooks[stage], subject, arguments)
        self._runs.add(run)
        try:
            while not run.is_over:
                with trio.CancelScope() as run.scope:
                    await self._ask_on(run)
                if run.scope.cancelled_caught:
                    run.take(self._failed(run, "took too long"))
        finally:
            self._runs.discard(run)
        return run.verdict

    async def _ask_on(self, run: _Run) -> None:
        while not run.is_over and not run.scope.cancel_called:
            run.take(await self.ask_one(run, run.hook))

    async def tell(self, stage: Stage, subject: Subject, *arguments: object) -> None:
        """Let the plugins know; nothing they answer matters."""
        await self.ask(stage, subject, *arguments)

    async def ask_one(self, run: _Run, hook: _Hook) -> Verdict:
        """Ask one plugin. The watchdog knows this function's frames, and the plugin by `hook` in them."""
        member = hook.member
        now = trio.current_time()
        if not member.breaker.allows(now):
            return self._spared(run)
        run.subject.ledger.asked = member.name
        run.started, run.due = now, now + member.deadline
        self._watch.note(run.due)
        try:
            answer = await hook.call(*run.arguments)
        except BaseException as error:
            passing = to_pass(error)
            if passing is None:
                return self._failed(run, "raised", error)
            if passing is not error:
                self._failed(run, "raised", error)
            member.breaker.forget_probe()
            raise passing from None
        finally:
            run.due = run.stuck_at = inf
        if run.scope.cancel_called and trio.current_time() >= now + member.deadline:
            return self._failed(run, "took too long")
        return self._taken(run, answer)

    def _taken(self, run: _Run, answer: object) -> Verdict:
        """A plugin's answer, once it is sound and its changes are made."""
        allowed = VERDICTS.get(run.hook.stage)
        if allowed is None:
            answer = CONTINUE
        elif type(answer) not in allowed:
            return self._failed(run, f"answered {answer!r:.80}")
        verdict: Verdict = answer  # type: ignore[assignment]  # its type was looked up
        changes = verdict.changes if isinstance(verdict, Continue | Quarantine) else ()
        if changes:
            try:
                run.subject.apply(changes)
            except Exception as error:
                return self._failed(run, "asked for what cannot be", error)
        if run.hook.member.breaker.succeeded():
            self._log.info("plugin.back", plugin=run.hook.member.name)
        self._account(run, verdict, len(changes))
        return verdict

    # ---- failing -------------------------------------------------------------------------------------

    def _spared(self, run: _Run) -> Verdict:
        run.subject.ledger.of(run.hook.member.name).verdict = "left alone after failures"
        return self._policy(run.hook)

    def _policy(self, hook: _Hook) -> Verdict:
        return _POLICY[hook.member.on_error] if hook.stage in VERDICTS else CONTINUE

    def _failed(self, run: _Run, how: str, error: BaseException | None = None) -> Verdict:
        hook, member = run.hook, run.hook.member
        now = trio.current_time()
        cost = run.subject.ledger.of(member.name)
        cost.seconds += now - run.started
        cost.verdict = f"failed: {how}"
        self._metrics.plugin_failures.labels(plugin=member.name).inc()
        self._log.error(
            "plugin.failed",
            plugin=member.name,
            stage=hook.stage.value,
            how=how,
            error="" if error is None else f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS],
            policy=member.on_error.value,
            seconds=round(now - run.started, 3),
            exc_info=error if isinstance(error, Exception | BaseExceptionGroup) else None,
        )
        if member.breaker.failed(now):
            self._log.error("plugin.left_alone", plugin=member.name, seconds=REST_SECONDS, policy=member.on_error.value)
        return self._policy(hook)

    def _account(self, run: _Run, verdict: Verdict, changes: int) -> None:
        ledger, name = run.subject.ledger, run.hook.member.name
        cost = ledger.of(name)
        cost.seconds += trio.current_time() - run.started
        cost.changes += changes
        if verdict is CONTINUE:
            return
        if verdict.score:
            cost.score += verdict.score
            ledger.score += verdict.score
        if type(verdict) is not Continue:
            cost.verdict = _NAMES[type(verdict)]
            self._metrics.plugin_verdicts.labels(plugin=name, verdict=cost.verdict).inc()

    def note_seconds(self, ledger: Ledger) -> None:
        """A mail or a session is over: its plugins' time goes into the metrics, once for all their calls."""
        for name, cost in ledger.costs.items():
            self._metrics.plugin_seconds.labels(plugin=name).inc(cost.seconds)


def _hooks(members: Sequence[Member], stage: Stage) -> list[_Hook]:
    """The hooks that are overridden: the others cost nothing."""
    name = f"on_{stage.value}"
    found: list[_Hook] = []
    for member in members:
        own: Any = getattr(type(member.plugin), name, None)
        if own is None or own is getattr(Plugin, name):
            continue
        method = getattr(member.plugin, name)
        found.append(_Hook(member, stage, _in_thread(member.plugin, method) if member.plugin.blocking else method))
    return found


def _in_thread(plugin: Plugin, method: Callable[..., object]) -> Callable[..., Awaitable[object]]:
    """A hook that blocks, in a thread of a few: one that hangs is left to itself, and keeps its place among the few."""
    limiter = trio.CapacityLimiter(BLOCKING_THREADS)
    threads = plugin.host.threads

    async def call(*arguments: object) -> object:
        return await threads.run_abandonable(limiter, method, *arguments)

    return call
