"""Asks the rules of one stage, in order, until one decides.

A rule that holds makes its changes and lets the next one be asked, unless it decides. Conditions see the mail as it
came to this plugin: changes are made when all is decided, but a score counts for the rules behind at once.
What is not here: reading rules (`rules.language`), the hooks (`rules.plugin`). Pure. Failure raised: `ValueError`, when
rules together ask for more changes than a verdict may have.
"""

from collections.abc import Iterable
from typing import Final

from attrs import evolve, frozen

from elemta.config.rules import DefaultAction
from elemta.plugins.api import Stage
from elemta.plugins.rules.actions import ACTIONS, Effect, MakeChanges
from elemta.plugins.rules.conditions import Holds, make_condition
from elemta.plugins.rules.facts import Situation
from elemta.plugins.rules.language import Rule
from elemta.plugins.verdicts import CONTINUE, Continue, Defer, Discard, Quarantine, Reject, Verdict

_BY_DEFAULT: Final[dict[DefaultAction, Verdict | None]] = {
    DefaultAction.ACCEPT: None,
    DefaultAction.REJECT: Reject(),
    DefaultAction.DEFER: Defer(),
    DefaultAction.DISCARD: Discard("no rule decided"),
    DefaultAction.QUARANTINE: Quarantine("no rule decided"),
}


@frozen(eq=False)
class _Ready:
    """One rule, made ready to be asked."""

    name: str
    holds: Holds
    changes: tuple[MakeChanges, ...]
    score: float
    verdict: Verdict | None
    accepts: bool
    dry_run: bool


@frozen(eq=False)
class Program:
    """The rules of one stage. `by_default` is what is answered when none of them decided, None to go on."""

    stage: Stage
    rules: tuple[_Ready, ...]
    by_default: Verdict | None = None


@frozen
class Decision:
    """What the rules of a stage came to."""

    verdict: Verdict = CONTINUE
    #: The name of the rule that decided; empty when none did.
    decided_by: str = ""
    #: The names of all that held and were heard.
    held: tuple[str, ...] = ()
    #: The names of those that held, but only to be told of.
    rehearsed: tuple[str, ...] = ()


def make_programs(
    rules: Iterable[Rule], *, default: DefaultAction = DefaultAction.ACCEPT, dry_run: bool = False
) -> dict[Stage, Program]:
    """The programs of the stages that have rules. `dry_run` lets none of them, and no default, do anything.

    A default other than to accept holds at each stage that has rules which are not only rehearsed, and where there are
    none at all, for the whole mail: who refuses everything by default is not open because a folder is empty.
    """
    ready: dict[Stage, list[_Ready]] = {stage: [] for stage in Stage}
    for rule in rules:
        if rule.enabled:
            one = _make_ready(evolve(rule, dry_run=rule.dry_run or dry_run))
            for stage in rule.stages:
                ready[stage].append(one)
    by_default = None if dry_run else _BY_DEFAULT[default]
    heard = {stage for stage, rules_of in ready.items() if not all(rule.dry_run for rule in rules_of)}
    closed = set() if by_default is None else (heard or {Stage.DATA_COMPLETE}) & ACTIONS[default.value].stages
    return {
        stage: Program(stage, tuple(rules_of), by_default if stage in closed else None)
        for stage, rules_of in ready.items()
        if rules_of or stage in closed
    }


def _make_ready(rule: Rule) -> _Ready:
    effects = [action.effect() for action in rule.actions]
    last = effects[-1] if effects else Effect()
    return _Ready(
        name=rule.name,
        holds=make_condition(rule.condition),
        changes=tuple(effect.changes for effect in effects if effect.changes is not None),
        score=sum(effect.score for effect in effects),
        verdict=_named(last.verdict, rule.name),
        accepts=last.accepts,
        dry_run=rule.dry_run,
    )


def _named(verdict: Verdict | None, rule: str) -> Verdict | None:
    """A verdict without a reason has the rule for it."""
    if isinstance(verdict, Discard | Quarantine) and not verdict.reason:
        return evolve(verdict, reason=f"rule {rule}")
    return verdict


def decide(program: Program, situation: Situation) -> Decision:
    """Ask the rules."""
    held: list[str] = []
    rehearsed: list[str] = []
    for rule in program.rules:
        if not rule.holds(situation):
            continue
        if rule.dry_run:
            rehearsed.append(rule.name)
            continue
        held.append(rule.name)
        for make in rule.changes:
            situation.changes += make(situation)
        situation.added_score += rule.score
        if rule.accepts or rule.verdict is not None:
            return Decision(_with(rule.verdict, situation), rule.name, tuple(held), tuple(rehearsed))
    return Decision(_with(program.by_default, situation), "", tuple(held), tuple(rehearsed))


def _with(verdict: Verdict | None, situation: Situation) -> Verdict:
    """A verdict with what the rules before it asked for; a mail that is refused needs no changes."""
    made, score = tuple(situation.changes), situation.added_score
    if verdict is None:
        return Continue(made, score) if made or score else CONTINUE
    if isinstance(verdict, Quarantine):
        return Quarantine(verdict.reason, made, score)
    return evolve(verdict, score=score) if score else verdict
