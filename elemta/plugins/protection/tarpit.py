"""The plugin that lets bad clients wait.

Nothing is refused: the replies of a session come later, the more of it was refused for good before and the higher its
score. A program that must get rid of a million mails gives up, an honest client does not notice. Who was only told to
come again, by greylisting or a limit, has done nothing bad. What is not here: scores (others give them), or counting
refusals (the session does). Failures raised: none.
"""

from typing import Annotated, Final, cast

import trio
from attrs import frozen

from elemta.config.kinds import About, Amount, Bool, Relay, Whole
from elemta.mail.envelope import Recipient
from elemta.plugins.api import CONTINUE, Host, Mail, Verdict
from elemta.plugins.protection.report import Protection

#: Seconds of one wait at most: a plugin's call has 30, a client waits 5 minutes for a reply, RFC 5321 §4.5.3.2.3.
MOST_SECONDS: Final = 25.0
#: Doublings after which a delay grows no further: 2 ** 32 times any first delay is beyond `MOST_SECONDS`.
_MOST_DOUBLINGS: Final = 32


@frozen
class TarpitSettings:
    """What can be set."""

    first_delay: Annotated[
        float, Amount("seconds", 0.01, MOST_SECONDS), About("Seconds of the first delay; each further one doubles it.")
    ] = 1.0
    max_delay: Annotated[float, Amount("seconds", 0.01, MOST_SECONDS), About("Seconds of a delay at most.")] = 20.0
    free_refusals: Annotated[
        int, Whole("refusals"), About("Refusals of a session that cost nothing: everybody mistypes an address.")
    ] = 2
    score: Annotated[
        float, Amount("points", 0.001, 1000), About("A score of so much weighs as much as one refusal beyond those.")
    ] = 2.0
    max_delayed: Annotated[
        int, Whole("sessions", 1, 100_000), About("Sessions that wait at once; who comes beyond waits for nothing.")
    ] = 200
    whitelist_ips: Annotated[tuple[Relay, ...], About("Addresses and networks of clients that never wait.")] = (
        "127.0.0.1",
        "::1",
    )
    dry_run: Annotated[Bool, About("Whether a delay is only reported: by the log, by a word at the mail.")] = False


def delay_seconds(refusals: int, score: float, *, settings: TarpitSettings) -> float:
    """How long the next reply of a session takes."""
    weight = max(refusals - settings.free_refusals, 0) + max(score, 0.0) / settings.score
    if weight < 1:
        return 0.0
    return min(settings.first_delay * 2.0 ** min(int(weight) - 1, _MOST_DOUBLINGS), settings.max_delay)


class Tarpit(Protection):
    """Lets bad clients wait."""

    settings_class = TarpitSettings
    #: Before the others: what takes time anyway need not be asked of them first.
    priority = 110
    about = "Answers a client the later, the more of it was refused and the worse its score is."
    label = "tarpit"

    def __init__(self, host: Host, settings: TarpitSettings | None = None) -> None:
        super().__init__(host, settings)
        self._settings = cast(TarpitSettings, self.settings)
        self._delayed = 0

    async def on_mail_from(self, mail: Mail) -> Verdict:
        return await self._wait(mail)

    async def on_rcpt_to(self, mail: Mail, recipient: Recipient) -> Verdict:
        return await self._wait(mail)

    async def _wait(self, mail: Mail) -> Verdict:
        session = mail.session
        seconds = delay_seconds(session.refusals, mail.score, settings=self._settings)
        if not seconds or self.spares(session):
            return CONTINUE
        if self.is_dry_run:
            return self.report(f"would wait {seconds:g} seconds", session, mail=mail)
        if self._delayed >= self._settings.max_delayed:
            return CONTINUE
        self._delayed += 1
        try:
            await trio.sleep(seconds)
        finally:
            self._delayed -= 1
        waited = session.notes[self] = session.notes.get(self, 0.0) + seconds
        return self.annotated(f"waited {waited:g} seconds in this session")
