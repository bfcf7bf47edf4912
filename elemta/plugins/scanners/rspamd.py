"""The plugin that asks rspamd.

What is not here: its question, its answer (`scanners.checkv2`), HTTP (`scanners.http`), or what a score leads to
(`scanners.policy`). Without a threshold of ours rspamd's action decides; its operator has set scores for it there.
Failure raised: `ScannerFailed`.
"""

import ssl
from collections.abc import Mapping
from email.header import Header
from typing import TYPE_CHECKING, Final

from elemta.config.scanners import AntispamSection
from elemta.plugins.api import CONTINUE, Change, Continue, Defer, Discard, Host, Mail, Reject, ReplaceHeader, Verdict
from elemta.plugins.scanners.base import Scanner
from elemta.plugins.scanners.checkv2 import PATH, Action, RspamdAnswer, parse_answer, question
from elemta.plugins.scanners.client import client_name
from elemta.plugins.scanners.policy import REFUSED, Finding, Step, Thresholds, removals, verdict

if TYPE_CHECKING:
    import httpx

#: Actions that call a mail spam.
_SPAM: Final = frozenset({Action.ADD_HEADER, Action.REWRITE_SUBJECT, Action.REJECT, Action.QUARANTINE, Action.DISCARD})
_STEPS: Final[Mapping[Action | None, Step]] = {
    Action.ADD_HEADER: Step.TAG,
    Action.REWRITE_SUBJECT: Step.TAG,
    Action.QUARANTINE: Step.QUARANTINE,
    Action.REJECT: Step.REJECT,
}
#: Characters of a subject that is rewritten: what is shown of any, and one line with the field's name.
MAX_SUBJECT_CHARACTERS: Final = 800


class Rspamd(Scanner):
    """Obeys rspamd's action, or thresholds of its own."""

    name = "rspamd"
    about = "asks rspamd about each mail"
    settings_class = AntispamSection

    def __init__(self, host: Host, settings: AntispamSection) -> None:
        own = settings.rspamd
        super().__init__(host, settings, own)
        self._own = own
        self._url = own.address + PATH
        self._thresholds = Thresholds(
            own.threshold, own.quarantine_threshold, own.reject_threshold, settings.reject_on_spam
        )
        self._client: httpx.AsyncClient | None = None

    async def start(self) -> None:
        from elemta.plugins.scanners import http  # late: httpx takes long to import, and only this plugin needs it

        context = None
        if self._url.startswith("https:"):
            context = await self.host.threads.run(None, ssl.create_default_context)  # it reads files
        self._client = http.client(self.host, context)

    async def stop(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def on_data_headers(self, mail: Mail) -> Verdict:
        # Here and not with the scan, so that forged fields go even where the scan fails or the mail is too large.
        gone = removals(mail.headers)
        return Continue(gone) if gone else CONTINUE

    async def scan(self, mail: Mail) -> Verdict:
        from elemta.plugins.scanners import http

        assert self._client is not None, "start() comes first"
        name = await client_name(self.host, mail.session)
        fields = question(mail, name, server=self.host.hostname, password=self._own.api_key)
        octets = await http.post(self._client, self._url, fields, mail.content)
        return self.judge(parse_answer(octets))

    def judge(self, answer: RspamdAnswer) -> Verdict:
        """What follows from an answer."""
        limits, said = self._thresholds, answer.action in _SPAM
        finding = Finding(
            scanner=self.name,
            is_spam=limits.is_spam(answer.score, said=said),
            score=answer.score,
            required=limits.tag,
            symbols=answer.symbols,
        )
        step = limits.step(answer.score, said=said)
        if limits.is_set or step is Step.REJECT:
            return verdict(finding, step)
        return self._obey(answer, finding)

    def _obey(self, answer: RspamdAnswer, finding: Finding) -> Verdict:
        """Do what rspamd advises."""
        said, score = _ascii(answer.message), answer.score
        match answer.action:
            case Action.REJECT:
                return Reject(said or REFUSED, 554, "5.7.1", score)
            case Action.SOFT_REJECT:
                return Defer(said or "try again later", 451, "4.7.1", score)
            case Action.GREYLIST if self._own.defer_greylist:
                return Defer(said or "greylisted, try again later", 451, "4.7.1", score)
            case Action.DISCARD:
                return Discard(f"rspamd: score {score:g}", score)
            case Action.REWRITE_SUBJECT:
                return verdict(finding, Step.TAG, changes=_rewritten(answer.subject))
            case action:
                return verdict(finding, _STEPS.get(action, Step.PASS))


def _rewritten(subject: str) -> tuple[Change, ...]:
    """The field with another subject, in encoded words (RFC 2047) where it has to be; nothing where there is none."""
    if not subject:
        return ()
    value = Header(subject[:MAX_SUBJECT_CHARACTERS], header_name="Subject").encode(linesep="\r\n")
    return (ReplaceHeader("Subject", value),)


def _ascii(text: str) -> str:
    """A text for a reply: not every client takes more than ASCII, RFC 5321 §4.2."""
    return text.encode("ascii", "replace").decode()
