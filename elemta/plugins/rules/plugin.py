"""The plugin that applies rules.

Rules are read and checked as it is made, and only the stages that have rules are hooked: the others cost nothing.
What is not here: what a rule says (`rules.language`), deciding (`rules.evaluate`).
Failure raised: `ConfigError`, before a client is served.
"""

from pathlib import Path
from typing import Final

from elemta.config.rules import RulesSection
from elemta.mail.envelope import Recipient
from elemta.plugins.api import Delivery, Host, Mail, OnError, Plugin, Session, Stage
from elemta.plugins.rules.evaluate import Decision, decide, make_programs
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

    def __init__(self, host: Host, settings: RulesSection | None = None) -> None:
        section = settings or RulesSection()
        super().__init__(host, section)
        rules = read_rules(Path(section.path), routes=host.routes)
        self.programs = make_programs(rules, default=section.default_action, dry_run=section.dry_run)
        self.stages = frozenset(self.programs)

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

    async def on_connect(self, session: Session) -> Verdict:
        return self.verdict(Stage.CONNECT, Situation(self.host.clock.wall(), session))

    async def on_helo(self, session: Session) -> Verdict:
        return self.verdict(Stage.HELO, Situation(self.host.clock.wall(), session))

    async def on_auth(self, session: Session) -> Verdict:
        return self.verdict(Stage.AUTH, Situation(self.host.clock.wall(), session))

    async def on_mail_from(self, mail: Mail) -> Verdict:
        return self.verdict(Stage.MAIL_FROM, Situation(self.host.clock.wall(), mail.session, mail))

    async def on_rcpt_to(self, mail: Mail, recipient: Recipient) -> Verdict:
        situation = Situation(self.host.clock.wall(), mail.session, mail, recipient.address)
        return self.verdict(Stage.RCPT_TO, situation)

    async def on_data_headers(self, mail: Mail) -> Verdict:
        return self.verdict(Stage.DATA_HEADERS, Situation(self.host.clock.wall(), mail.session, mail))

    async def on_data_complete(self, mail: Mail) -> Verdict:
        return self.verdict(Stage.DATA_COMPLETE, Situation(self.host.clock.wall(), mail.session, mail))

    async def on_pre_delivery(self, delivery: Delivery) -> Verdict:
        return self.verdict(Stage.PRE_DELIVERY, Situation(self.host.clock.wall(), delivery=delivery))
