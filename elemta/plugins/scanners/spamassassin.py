"""The plugin that asks SpamAssassin's daemon.

What is not here: its protocol (`scanners.spamd`), or what a score leads to (`scanners.policy`). Failure raised:
`ScannerFailed`.
"""

from elemta.config.scanners import AntispamSection
from elemta.plugins.api import Host, Mail, Verdict
from elemta.plugins.scanners.base import Pipe, ask, service_of
from elemta.plugins.scanners.client import client_name, prologue
from elemta.plugins.scanners.policy import verdict
from elemta.plugins.scanners.spamd import SpamdReader, request
from elemta.plugins.scanners.spamfilter import SpamFilter


class SpamAssassin(SpamFilter):
    """Scores each mail; tags, holds, refuses by score."""

    name = "spamassassin"
    about = "asks SpamAssassin (spamd) about each mail"

    def __init__(self, host: Host, settings: AntispamSection) -> None:
        super().__init__(host, settings, settings.spamassassin)
        self._service = service_of(settings.spamassassin)

    async def scan(self, mail: Mail) -> Verdict:
        name = await client_name(self.host, mail.session)
        before = prologue(mail, name, server=self.host.hostname, at=self.host.clock.wall())

        async def say(pipe: Pipe) -> None:
            await pipe.send_all(request(len(before) + mail.content.size) + before)
            async for piece in mail.content.chunks():
                await pipe.send_all(piece)

        answer = await ask(self.host, self._service, say=say, hear=SpamdReader().receive)
        return verdict(*self.weigh(answer.score, said=answer.is_spam, symbols=answer.symbols, required=answer.required))
