"""The plugin that lets bad clients wait.

Nothing is refused: the replies of a session come later, the more of it was refused before and the higher its score. A
program that must get rid of a million mails gives up, an honest client does not notice. What is not here: scores
(others give them).

What a plugin sees of refusals are recipients that other plugins refused, and mails that were begun and did not come to
be queued. Who was only told to come again by greylisting or a limit has done nothing bad: that counts for nothing.
Failures raised: none.
"""

from typing import Annotated, Final, cast

import trio
from attrs import define, frozen

from elemta.config.kinds import About, Amount, Bool, Relay, Whole
from elemta.mail.envelope import Recipient
from elemta.plugins.api import CONTINUE, Host, Mail, Session, Verdict
from elemta.plugins.protection.clients import Networks, is_trusted
from elemta.plugins.protection.report import Protection, deferrals_of

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


@define
class _Tally:
    """What was seen of one session: mails that were `begun`, those of them that are `queued`, those that were `excused`
    as a part of them was deferred; within the present mail the recipients that were `asked` for."""

    begun: int = 0
    queued: int = 0
    excused: int = 0
    refused: int = 0
    asked: int = 0
    is_excused: bool = False
    #: Deferrals that were taken into account.
    deferrals: int = 0
    waited: float = 0.0

    @property
    def refusals(self) -> int:
        """Refusals so far; the present mail is none yet."""
        return self.refused + max(self.begun - self.queued - self.excused - 1, 0)

    def begin(self, deferrals: int) -> None:
        """Another mail was begun."""
        self._excuse(deferrals)
        self.begun += 1
        self.asked = 0
        self.is_excused = False

    def ask(self, accepted: int, deferrals: int) -> None:
        """Another recipient is asked about, after so many were accepted."""
        if not self._excuse(deferrals):
            self.refused += max(self.asked - accepted, 0)
        self.asked = accepted + 1

    def _excuse(self, deferrals: int) -> bool:
        """Whether what was last refused was a deferral; the mail is excused by the first."""
        is_new = deferrals > self.deferrals
        self.deferrals = deferrals
        if is_new and self.begun and not self.is_excused:
            self.is_excused = True
            self.excused += 1
        return is_new


class Tarpit(Protection):
    """Lets bad clients wait."""

    settings_class = TarpitSettings
    #: Asked before the others: of what they refuse, who is asked behind them would not hear.
    priority = 110
    about = "Answers a client the later, the more of it was refused and the worse its score is."
    label = "tarpit"

    def __init__(self, host: Host, settings: TarpitSettings | None = None) -> None:
        super().__init__(host, settings)
        self._settings = cast(TarpitSettings, self.settings)
        self._free = Networks(self._settings.whitelist_ips)
        self._delayed = 0

    async def on_mail_from(self, mail: Mail) -> Verdict:
        tally = _tally(self, mail.session)
        tally.begin(deferrals_of(mail.session).count)
        return await self._wait(mail, tally)

    async def on_rcpt_to(self, mail: Mail, recipient: Recipient) -> Verdict:
        tally = _tally(self, mail.session)
        tally.ask(len(mail.recipients), deferrals_of(mail.session).count)
        return await self._wait(mail, tally)

    async def on_queued(self, mail: Mail) -> None:
        _tally(self, mail.session).queued += 1

    async def _wait(self, mail: Mail, tally: _Tally) -> Verdict:
        session = mail.session
        seconds = delay_seconds(tally.refusals, mail.score, settings=self._settings)
        if not seconds or is_trusted(session) or session.client.is_unix or session.client.host in self._free:
            return CONTINUE
        if self.is_dry_run:
            self.note(f"would wait {seconds:g} seconds", session)
            return self.annotated(f"would wait {seconds:g} seconds")
        if self._delayed >= self._settings.max_delayed:
            return CONTINUE
        self._delayed += 1
        try:
            await trio.sleep(seconds)
        finally:
            self._delayed -= 1
        tally.waited += seconds
        return self.annotated(f"waited {tally.waited:g} seconds in this session")


def _tally(plugin: Tarpit, session: Session) -> _Tally:
    tally: _Tally = session.notes.setdefault(plugin, _Tally())
    return tally
