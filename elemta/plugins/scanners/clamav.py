"""The plugin that asks ClamAV's daemon.

What is not here: its protocol (`scanners.clamd`). Failure raised: `ScannerFailed`.
"""

from elemta.config.scanners import AntivirusSection, OnVirus
from elemta.plugins.api import Annotate, Continue, Host, Mail, Quarantine, Reject, Verdict
from elemta.plugins.scanners.base import Pipe, Scanner, ask, service_of
from elemta.plugins.scanners.clamd import COMMAND, END, ClamdReader, piece

#: Characters of a signature's name in a reply; names are words of a few dozen.
MAX_SIGNATURE_CHARACTERS = 100


class ClamAV(Scanner):
    """Refuses, or holds, mails with a virus in them."""

    name = "clamav"
    about = "asks ClamAV (clamd) about each mail"
    settings_class = AntivirusSection
    # Before the spam filters: it is quicker, and a virus is refused whatever they think of it.
    priority = 75

    def __init__(self, host: Host, settings: AntivirusSection) -> None:
        super().__init__(host, settings, settings.clamav)
        self._service = service_of(settings.clamav)
        self._on_virus = settings.on_virus

    async def scan(self, mail: Mail) -> Verdict:
        async def say(pipe: Pipe) -> None:
            await pipe.send_all(COMMAND)
            async for octets in mail.content.chunks():
                await pipe.send_all(piece(octets))
            await pipe.send_all(END)

        answer = await ask(self.host, self._service, say=say, hear=ClamdReader().receive)
        if answer.signature is None:
            return Continue((Annotate(self.name, "no virus"),))
        name = answer.signature[:MAX_SIGNATURE_CHARACTERS]
        if self._on_virus is OnVirus.QUARANTINE:
            return Quarantine(f"virus: {name}", (Annotate(self.name, f"virus: {name}"),))
        return Reject(f"virus found: {name}", 554, "5.7.1")
