"""The plugin that asks a milter: rspamd's, OpenDKIM, clamav-milter, or any other that speaks Sendmail's protocol.

Each session has one connection to the milter, which hears of all its mails. Header and body are told when the mail is
whole, recipients one by one, so that each can be refused. What is not here: the session as the milter sees it
(`milter.visit`), the protocol (`milter.machine`), what becomes of a mail when the milter fails: that is the plugin's
`on_error`. Failure raised: `MilterFailed`.
"""

from typing import Annotated, Any, ClassVar

from attrs import frozen

from elemta.config.kinds import About, Bool, Form, Seconds
from elemta.mail.envelope import Recipient
from elemta.plugins.api import Host, Mail, OnError, Plugin, Session, Verdict
from elemta.plugins.milter.address import parse_milter_address
from elemta.plugins.milter.visit import Timeouts, Visit
from elemta.plugins.verdicts import MAX_BODY_OCTETS
from elemta.runtime.budget import ByteBudget

#: Seconds for one hook: below the ten minutes that a client waits for the last reply, RFC 5321 §4.5.3.2.6, above the
#: milter's own timeouts, so that these are what is noticed and named.
DEADLINE_SECONDS = 420.0
#: Octets of other bodies that one milter is about to give, to all mails together: four of the largest. Few milters give
#: any; once a body is whole, it counts with all octets of mails in memory.
MAX_BODIES_OCTETS = 4 * MAX_BODY_OCTETS

_Address = Annotated[
    str, Form('the address of a milter: "unix:/path", "inet:port@host" or "host:port"', parse_milter_address)
]


@frozen
class MilterSettings:
    """Which milter to ask, and how long to wait for it. The defaults of timeouts are Postfix's."""

    address: Annotated[
        _Address,
        About("Where the milter listens: `unix:/path`, `inet:port@host` or `host:port`, as in its own manual."),
    ]
    connect_timeout: Annotated[Seconds, About("How long to wait for the connection and the negotiation on it.")] = 30.0
    command_timeout: Annotated[
        Seconds, About("How long to wait for the answer to a command, a header field or a piece of the body.")
    ] = 30.0
    content_timeout: Annotated[
        Seconds,
        About("How long to wait for the answer to the whole mail, anew whenever the milter says it works."),
    ] = 300.0
    client_names: Annotated[
        Bool, About("Whether DNS is asked for the client's name; filters count a client without one as suspect.")
    ] = True


class Milter(Plugin):
    """Asks one milter about every session and every mail."""

    settings_class: ClassVar[type | None] = MilterSettings
    #: Behind what looks at mails in the server itself: what they change is to be signed, too.
    priority: ClassVar[int] = 25
    deadline: ClassVar[float] = DEADLINE_SECONDS
    #: As Postfix does: mail that could not be checked or signed comes again later.
    on_error: ClassVar[OnError] = OnError.DEFER
    about: ClassVar[str] = "Asks a filter that speaks Sendmail's milter protocol."

    def __init__(self, host: Host, settings: Any = None) -> None:
        """`settings` are `MilterSettings`. Raises `ValueError` without them."""
        super().__init__(host, settings)
        if not isinstance(settings, MilterSettings):
            raise ValueError("a milter needs its address")
        self._address = parse_milter_address(settings.address)
        self._timeouts = Timeouts(settings.connect_timeout, settings.command_timeout, settings.content_timeout)
        self._room = ByteBudget(MAX_BODIES_OCTETS)

    async def on_connect(self, session: Session) -> Verdict:
        return await self._visit(session).connect(session)

    async def on_helo(self, session: Session) -> Verdict:
        return await self._visit(session).helo(session)

    async def on_mail_from(self, mail: Mail) -> Verdict:
        return await self._visit(mail.session).mail(mail)

    async def on_rcpt_to(self, mail: Mail, recipient: Recipient) -> Verdict:
        return await self._visit(mail.session).recipient(mail, recipient)

    async def on_data_complete(self, mail: Mail) -> Verdict:
        return await self._visit(mail.session).content(mail)

    async def on_disconnect(self, session: Session) -> None:
        visit: Visit | None = session.notes.pop(self, None)
        if visit is not None:
            await visit.close()

    def _visit(self, session: Session) -> Visit:
        visit: Visit | None = session.notes.get(self)
        if visit is None:
            visit = session.notes[self] = Visit(
                self.host, self._address, self._timeouts, room=self._room, client_names=self.settings.client_names
            )
        return visit
