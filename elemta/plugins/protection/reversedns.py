"""The plugin that looks whether a client's address has a name that is true.

What is not here: asking (`reverse`). It is done at the first MAIL of a session: by then users have logged in, whose
addresses need no names. While DNS does not answer, nothing is held against the client.
"""

from typing import Annotated, Final, cast

import trio
from attrs import frozen

from elemta.config.kinds import About, Amount, Bool, Relay
from elemta.plugins.api import CONTINUE, Host, Mail, Session, Verdict
from elemta.plugins.protection.report import Action, Finding, Protection
from elemta.plugins.protection.reverse import ReverseNames, reverse_names

#: Seconds that all names of an address may take.
REVERSE_SECONDS: Final = 15.0


@frozen
class ReverseDnsSettings:
    """What can be set. Honest servers without a reverse name exist: unless told otherwise they only get a score."""

    missing: Annotated[
        Action, About("When the client's address has no name at all: `off`, `score`, `defer`, `reject`.")
    ] = Action.SCORE
    untrue: Annotated[Action, About("When it has names, and none of them leads back to the address.")] = Action.SCORE
    score: Annotated[float, Amount("points", 0, 1000), About("What `score` adds to the score.")] = 2.0
    whitelist_ips: Annotated[tuple[Relay, ...], About("Addresses and networks of clients that are not checked.")] = ()
    dry_run: Annotated[Bool, About("Whether a refusal is only reported: by the log, by a word at the mail.")] = False


class ReverseDns(Protection):
    """Holds it against a client when its address has no true name."""

    settings_class = ReverseDnsSettings
    priority = 75
    about = "Holds it against a client when its address has no name, or none that leads back to it."
    label = "reversedns"

    def __init__(self, host: Host, settings: ReverseDnsSettings | None = None) -> None:
        super().__init__(host, settings)
        self._settings = cast(ReverseDnsSettings, self.settings)

    async def on_mail_from(self, mail: Mail) -> Verdict:
        address = self.public_address(mail.session)
        if address is None:
            return CONTINUE
        names = await self._names(mail.session, str(address))
        return self.hold(judge(str(address), names, settings=self._settings), mail)

    async def _names(self, session: Session, host: str) -> ReverseNames:
        known: ReverseNames | None = session.notes.get(self)
        if known is None:
            known = ReverseNames(failed=True)
            with trio.move_on_after(REVERSE_SECONDS):
                known = await reverse_names(self.host.resolver, host)
            session.notes[self] = known
        return known


def judge(host: str, names: ReverseNames, *, settings: ReverseDnsSettings) -> Finding | None:
    """What is held against an address with these names; None for nothing."""
    if names.confirmed or names.failed:
        return None
    if names.claimed:
        text = f"your address {host} is called {names.claimed[0]}, which does not lead back to it"
        return Finding(settings.untrue, text, settings.score)
    return Finding(settings.missing, f"your address {host} has no name in DNS", settings.score)
