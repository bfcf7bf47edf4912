"""The plugin that asks SpamAssassin's daemon.

What is not here: its protocol (`scanners.spamd`), or what a score leads to (`scanners.policy`). Failure raised:
`ScannerFailed`.
"""

from elemta.config.scanners import AntispamSection
from elemta.net.base import Stream
from elemta.plugins.api import CONTINUE, Continue, Host, Mail, Verdict
from elemta.plugins.scanners.base import Scanner, ask
from elemta.plugins.scanners.client import client_name, prologue
from elemta.plugins.scanners.policy import Finding, Thresholds, removals, verdict
from elemta.plugins.scanners.spamd import SpamdReader, request


class SpamAssassin(Scanner):
    """Scores each mail; tags, holds, refuses by score."""

    name = "spamassassin"
    about = "asks SpamAssassin (spamd) about each mail"
    settings_class = AntispamSection

    def __init__(self, host: Host, settings: AntispamSection) -> None:
        own = settings.spamassassin
        super().__init__(host, settings, own)
        self._address = own.address
        self._thresholds = Thresholds(
            own.threshold, own.quarantine_threshold, own.reject_threshold, settings.reject_on_spam
        )

    async def on_data_headers(self, mail: Mail) -> Verdict:
        # Here and not with the scan, so that forged fields go even where the scan fails or the mail is too large.
        gone = removals(mail.headers)
        return Continue(gone) if gone else CONTINUE

    async def scan(self, mail: Mail) -> Verdict:
        name = await client_name(self.host, mail.session)
        before = prologue(mail, name, server=self.host.hostname, at=self.host.clock.wall())

        async def say(stream: Stream) -> None:
            await stream.send_all(request(len(before) + mail.content.size) + before)
            async for piece in mail.content.chunks():
                await stream.send_all(piece)

        answer = await ask(self.host, self._address, say=say, hear=SpamdReader().receive)
        limits = self._thresholds
        finding = Finding(
            scanner=self.name,
            is_spam=limits.is_spam(answer.score, said=answer.is_spam),
            score=answer.score,
            required=answer.required if limits.tag is None else limits.tag,
            symbols=answer.symbols,
        )
        return verdict(finding, limits.step(answer.score, said=answer.is_spam))
