"""The plugin that asks rspamd.

What is not here: its question, its answer (`scanners.checkv2`), HTTP (`scanners.http`), or what a score leads to
(`scanners.policy`). Without a threshold of ours rspamd's action decides; its operator has set scores for it there.
Failure raised: `ScannerFailed`.
"""

import ssl
from collections.abc import Mapping
from email.header import Header
from typing import Final
from urllib.parse import urlsplit

from elemta.config.scanners import AntispamSection
from elemta.net.base import Endpoint
from elemta.plugins.api import Change, Defer, Discard, Host, Mail, Reject, ReplaceHeader, Verdict
from elemta.plugins.scanners.base import Pipe, Service, ask, service_of
from elemta.plugins.scanners.checkv2 import PATH, Action, RspamdAnswer, parse_answer, question
from elemta.plugins.scanners.client import client_name
from elemta.plugins.scanners.http import HttpExchange
from elemta.plugins.scanners.policy import REFUSED, Finding, Step, verdict
from elemta.plugins.scanners.spamfilter import SpamFilter

#: TCP ports where an address names none, RFC 9110 §4.2.
_PORTS: Final = {"http": 80, "https": 443}
#: What stands in Host for a unix socket, whose path no URL can name.
_LOCAL: Final = "localhost"
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


class Rspamd(SpamFilter):
    """Obeys rspamd's action, or thresholds of its own."""

    name = "rspamd"
    about = "asks rspamd about each mail"

    def __init__(self, host: Host, settings: AntispamSection) -> None:
        own = settings.rspamd
        super().__init__(host, settings, own)
        self._own = own
        self._service: Service | None = None
        self._name, self._target = _LOCAL, PATH
        if not own.address.startswith("unix:"):
            url = urlsplit(own.address)
            self._name, self._target = url.netloc, url.path + PATH

    async def start(self) -> None:
        own = self._own
        if own.address.startswith("unix:"):
            self._service = service_of(own)
            return
        url = urlsplit(own.address)
        context = None
        if url.scheme == "https":
            context = await self.host.threads.run(None, ssl.create_default_context)  # it reads files
        where = Endpoint(url.hostname or "", url.port or _PORTS[url.scheme])
        self._service = Service(where, own.timeout, context)

    async def scan(self, mail: Mail) -> Verdict:
        assert self._service is not None, "start() comes first"
        name = await client_name(self.host, mail.session)
        fields = question(mail, name, server=self.host.hostname, password=self._own.api_key)
        exchange = HttpExchange(self._target, [(b"Host", self._name.encode()), *fields], mail.content.size)

        async def say(pipe: Pipe) -> None:
            await pipe.send_all(exchange.head())
            async for piece in mail.content.chunks():
                await pipe.send_all(exchange.piece(piece))
            await pipe.send_all(exchange.end())

        return self.judge(parse_answer(await ask(self.host, self._service, say=say, hear=exchange.receive)))

    def judge(self, answer: RspamdAnswer) -> Verdict:
        """What follows from an answer."""
        finding, step = self.weigh(answer.score, said=answer.action in _SPAM, symbols=answer.symbols)
        if self._thresholds.is_set or step is Step.REJECT:
            return verdict(finding, step)
        return self._obey(answer, finding)

    def _obey(self, answer: RspamdAnswer, finding: Finding) -> Verdict:
        """Do what rspamd advises."""
        said, score = answer.message, answer.score
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
