"""The plugin that checks what a client calls itself.

What is not here: what can be seen without asking anybody (`hello`), the client's reverse name (`reversedns`). Checks
are made at MAIL: by then users have logged in, whose programs say what they like. While DNS does not answer, a name
counts as one that is there.
"""

from typing import Annotated, Final, cast

import trio
from attrs import frozen

from elemta.config.addresses import parse_domain
from elemta.config.kinds import About, Amount, Bool, Domain, Relay
from elemta.plugins.api import CONTINUE, Host, Mail, Session, Verdict
from elemta.plugins.protection import hello
from elemta.plugins.protection.report import Action, Finding, Protection, in_ascii
from elemta.resolver.base import NameNotFound, ResolutionFailed

#: Seconds that a name may take; without an answer it counts as one that is there.
NAME_SECONDS: Final = 10.0
#: Characters of a name in a reply.
_SHOWN_CHARACTERS: Final = 100


@frozen
class HeloSettings:
    """What can be set. A name that cannot be right is refused, one that may be a mistake of its owner is not."""

    malformed: Annotated[
        Action,
        About("When it is neither a whole domain name nor an address in brackets: `off`, `score`, `defer`, `reject`."),
    ] = Action.REJECT
    ours: Annotated[Action, About("When it is this server's own name or address.")] = Action.REJECT
    unknown: Annotated[Action, About("When DNS knows no such name, or neither address nor MX of it.")] = Action.SCORE
    score: Annotated[float, Amount("points", 0, 1000), About("What `score` adds to the score.")] = 2.0
    own_names: Annotated[tuple[Domain, ...], About("Further names that are this server's own.")] = ()
    whitelist_ips: Annotated[tuple[Relay, ...], About("Addresses and networks of clients that are not checked.")] = (
        "127.0.0.1",
        "::1",
    )
    dry_run: Annotated[Bool, About("Whether a refusal is only reported: by the log, by a word at the mail.")] = False


class HeloCheck(Protection):
    """Refuses clients whose HELO cannot be right."""

    settings_class = HeloSettings
    priority = 75
    about = "Refuses clients that call themselves by no name, by this server's, or by one that does not exist."
    label = "helo"

    def __init__(self, host: Host, settings: HeloSettings | None = None) -> None:
        super().__init__(host, settings)
        self._settings = cast(HeloSettings, self.settings)
        self._names = frozenset((host.hostname.lower(), *self._settings.own_names))

    async def on_mail_from(self, mail: Mail) -> Verdict:
        session = mail.session
        if self.spares(session):
            return CONTINUE
        known: tuple[str, Finding | None] | None = session.notes.get(self)
        if known is None or known[0] != session.helo:
            known = session.notes[self] = session.helo, await self._check(session)
        return self.hold(known[1], mail)

    async def _check(self, session: Session) -> Finding | None:
        settings, said = self._settings, session.helo
        shown = in_ascii(said[:_SHOWN_CHARACTERS])
        if settings.malformed is not Action.OFF and not hello.is_well_formed(said):
            text = f"{shown or 'nothing'} is no name to greet with: a whole domain name or an address in brackets is"
            return Finding(settings.malformed, text, settings.score)
        if settings.ours is not Action.OFF and hello.is_ours(said, names=self._names, address=session.local.host):
            return Finding(settings.ours, f"{shown} is this server, and not you", settings.score)
        if settings.unknown is not Action.OFF and not said.startswith("[") and not await self._exists(said):
            return Finding(
                settings.unknown, f"the name {shown} that you greet with is not known to DNS", settings.score
            )
        return None

    async def _exists(self, name: str) -> bool:
        """Whether DNS has an address or an MX of it; True as well when it does not say."""
        resolver = self.host.resolver
        try:
            plain = name.lower().removesuffix(".") if name.isascii() else parse_domain(name.removesuffix("."))
        except ValueError:
            return False
        with trio.move_on_after(NAME_SECONDS):
            try:
                return bool(await resolver.addresses(plain) or await resolver.mail_exchangers(plain))
            except NameNotFound:
                return False
            except ResolutionFailed:
                return True
        return True
