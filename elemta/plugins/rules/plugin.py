"""The plugin that applies rules.

Rules are read and checked as it is made, and only the stages that have rules are hooked: the others cost nothing.
What is not here: what a rule says (`rules.language`), deciding (`rules.evaluate`).
Failure raised: `ConfigError`, before a client is served.
"""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from elemta.config.rules import RulesSection
from elemta.mail.envelope import Recipient
from elemta.plugins.api import Delivery, Host, Mail, OnError, Plugin, Session, Stage
from elemta.plugins.rules.evaluate import Decision, Program, decide, make_programs
from elemta.plugins.rules.facts import Situation
from elemta.plugins.rules.files import read_rules
from elemta.plugins.verdicts import Continue, Verdict

#: Lines about one session that are logged as `info`. The rest is `debug`: nobody fills the log by being refused.
MAX_LINES_PER_SESSION: Final = 10


class Rules(Plugin):
    """The rules of a folder. `Rules(host, RulesSection(...))` raises `ConfigError` for rules that are wrong."""

    settings_class = RulesSection
    #: Behind the plugins that give scores, so that rules can ask for them.
    priority = 25
    #: A rule that refuses is not to be passed by because it failed.
    on_error = OnError.DEFER
    about = "Applies the rules of a folder: conditions and actions in JSON."

    programs: ClassVar[Mapping[Stage, Program]] = {}

    def __new__(cls, host: Host, settings: RulesSection | None = None) -> Self:
        """An instance of a class of its own, whose hooks are those of the stages that have rules.

        Who calls plugins looks at the class for what is overridden, and prepares a stage for nobody else.
        """
        section = settings or RulesSection()
        programs = make_programs(
            read_rules(Path(section.path)), default=section.default_action, dry_run=section.dry_run
        )
        hooks: dict[str, Any] = {f"on_{stage.value}": _HOOKS[stage] for stage in programs}
        own = type(cls.__name__, (cls,), {**hooks, "programs": programs, "__module__": cls.__module__})
        instance: Self = object.__new__(own)
        return instance

    async def start(self) -> None:
        """Say what is applied."""
        rules = {rule.name for program in self.programs.values() for rule in program.rules}
        self.host.log.info("rules.read", rules=len(rules), stages=[stage.value for stage in self.programs])

    def verdict(self, stage: Stage, situation: Situation) -> Verdict:
        """What the rules of a stage say."""
        decision = decide(self.programs[stage], situation)
        if decision.held or decision.rehearsed or type(decision.verdict) is not Continue:
            self._tell(stage, situation, decision)
        return decision.verdict

    def _tell(self, stage: Stage, situation: Situation, decision: Decision) -> None:
        words: dict[str, object] = {"stage": stage.value, "verdict": type(decision.verdict).__name__.lower()}
        if decision.decided_by:
            words["decided_by"] = decision.decided_by
        if decision.held:
            words["rules"] = list(decision.held)
        if decision.rehearsed:
            words["only_rehearsed"] = list(decision.rehearsed)
        subject = situation.delivery or situation.mail or situation.session
        assert subject is not None
        log = self.host.log.info if self._may_tell(situation) else self.host.log.debug
        log("rules.applied", id=subject.id, **words)

    def _may_tell(self, situation: Situation) -> bool:
        session = situation.session
        if session is None:
            return True
        told: int = session.notes.get(self, 0)
        session.notes[self] = told + 1
        return told < MAX_LINES_PER_SESSION


async def _on_connect(self: Rules, session: Session) -> Verdict:
    return self.verdict(Stage.CONNECT, Situation(self.host.clock.wall(), session))


async def _on_helo(self: Rules, session: Session) -> Verdict:
    return self.verdict(Stage.HELO, Situation(self.host.clock.wall(), session))


async def _on_auth(self: Rules, session: Session) -> Verdict:
    return self.verdict(Stage.AUTH, Situation(self.host.clock.wall(), session))


async def _on_mail_from(self: Rules, mail: Mail) -> Verdict:
    return self.verdict(Stage.MAIL_FROM, Situation(self.host.clock.wall(), mail.session, mail))


async def _on_rcpt_to(self: Rules, mail: Mail, recipient: Recipient) -> Verdict:
    situation = Situation(self.host.clock.wall(), mail.session, mail, recipient.address)
    return self.verdict(Stage.RCPT_TO, situation)


async def _on_data_headers(self: Rules, mail: Mail) -> Verdict:
    return self.verdict(Stage.DATA_HEADERS, Situation(self.host.clock.wall(), mail.session, mail))


async def _on_data_complete(self: Rules, mail: Mail) -> Verdict:
    return self.verdict(Stage.DATA_COMPLETE, Situation(self.host.clock.wall(), mail.session, mail))


async def _on_pre_delivery(self: Rules, delivery: Delivery) -> Verdict:
    return self.verdict(Stage.PRE_DELIVERY, Situation(self.host.clock.wall(), delivery=delivery))


_HOOKS: Final[Mapping[Stage, Callable[..., Awaitable[Verdict]]]] = {
    Stage.CONNECT: _on_connect,
    Stage.HELO: _on_helo,
    Stage.AUTH: _on_auth,
    Stage.MAIL_FROM: _on_mail_from,
    Stage.RCPT_TO: _on_rcpt_to,
    Stage.DATA_HEADERS: _on_data_headers,
    Stage.DATA_COMPLETE: _on_data_complete,
    Stage.PRE_DELIVERY: _on_pre_delivery,
}
