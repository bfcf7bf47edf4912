"""One session of a client, as far as a milter is told of it.

The connection to the milter is opened with the session. Where it has ended or failed, the next mail opens a new one and
tells the session anew. What is not here: the hooks (`milter.plugin`), one connection's deadlines (`milter.link`).
Failure raised: `MilterFailed`, from every method that asks the milter.
"""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Final

from attrs import frozen

from elemta.mail.address import Address
from elemta.mail.envelope import Recipient
from elemta.plugins.api import Content, Host, Mail, Session
from elemta.plugins.milter import macros, wire
from elemta.plugins.milter.address import MilterAddress
from elemta.plugins.milter.changes import Header, own_received, translate
from elemta.plugins.milter.clients import names_of
from elemta.plugins.milter.events import Decision
from elemta.plugins.milter.link import Link, MilterFailed, MilterGone, Settled
from elemta.plugins.milter.machine import Client
from elemta.plugins.milter.macros import Names, without_dns
from elemta.plugins.milter.verdicts import verdict_of
from elemta.plugins.milter.wire import MilterProtocolError
from elemta.plugins.verdicts import CONTINUE, Continue, Quarantine, Verdict
from elemta.runtime.budget import ByteBudget
from elemta.smtp.client_commands import Capabilities, rcpt_command

_DSN: Final = Capabilities(dsn=True)
_GOES_ON: Final = frozenset({Decision.CONTINUE, Decision.SKIP})


@frozen
class Timeouts:
    """Seconds: to connect and negotiate, for the answer to one step, for the answer to the end of a mail."""

    connect: float
    command: float
    content: float


class Visit:
    """A session's state between hooks, which are called one after the other."""

    def __init__(
        self, host: Host, address: MilterAddress, timeouts: Timeouts, *, room: ByteBudget, client_names: bool
    ) -> None:
        """`room` is for bodies while they come, `client_names` says whether DNS is asked for the client's name."""
        self._host = host
        self._address = address
        self._timeouts = timeouts
        self._room = room
        self._client_names = client_names
        self._names: Names | None = None
        self._link: Link | None = None
        #: What the milter has decided on the whole session; it is asked no more.
        self._settled: Verdict | None = None
        #: The id of the mail that the milter was told of last; it has decided on it when the machine is in no mail.
        self._mail = ""

    # ---- what hooks ask --------------------------------------------------------------------------

    async def connect(self, session: Session) -> Verdict:
        """A client has connected."""
        return await self._guarded(self._connect(session))

    async def helo(self, session: Session) -> Verdict:
        """HELO or EHLO, for the first time or again."""
        return await self._guarded(self._helo(session))

    async def mail(self, mail: Mail) -> Verdict:
        """MAIL."""
        return await self._guarded(self._begin(mail))

    async def recipient(self, mail: Mail, recipient: Recipient) -> Verdict:
        """RCPT."""
        if not self._is_open(mail):
            return self._settled or CONTINUE
        return await self._guarded(self._recipient(mail, recipient))

    async def content(self, mail: Mail) -> Verdict:
        """The whole mail is there."""
        if not self._is_open(mail):
            return self._settled or CONTINUE
        return await self._guarded(self._content(mail))

    async def close(self) -> None:
        """The session is over."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    # ---- the session -----------------------------------------------------------------------------

    async def _connect(self, session: Session) -> Verdict:
        self._link = link = await Link.open(self._host, self._address, room=self._room, seconds=self._timeouts.connect)
        client = session.client
        names = await self._known_names(session)
        peer = Client(names.client, macros.family(client), client.host, client.port)
        link.machine.connect(peer, macros.of_session(session, names))
        return self._settle_session(await link.settle(self._timeouts.command), greeting=True)

    async def _helo(self, session: Session) -> Verdict:
        if self._settled is not None:
            return self._settled
        if self._link is not None:
            try:
                return await self._helo_on(self._link, session)
            except MilterGone:
                # It was started again since it was asked last, or tired of waiting: it knows nothing of the session.
                self._drop()
        verdict = await self._connect(session)
        if self._settled is not None:
            return verdict
        return await self._helo_on(self._opened(), session)

    async def _helo_on(self, link: Link, session: Session) -> Verdict:
        if link.machine.in_mail:  # EHLO ends a transaction: RFC 5321 §4.1.4
            link.machine.abort()
        self._mail = ""
        link.machine.helo(session.helo, macros.of_session(session, await self._known_names(session)))
        return self._settle_session(await link.settle(self._timeouts.command))

    def _settle_session(self, settled: Settled, *, greeting: bool = False) -> Verdict:
        verdict = verdict_of(settled.decision, greeting=greeting)
        if settled.decision not in _GOES_ON:
            self._settled = verdict
        return verdict

    # ---- a mail ----------------------------------------------------------------------------------

    async def _begin(self, mail: Mail) -> Verdict:
        if self._settled is None and self._link is not None:
            try:
                return await self._begin_on(self._link, mail)
            except MilterGone:
                # As in `_helo`. Nothing is decided on this mail yet.
                self._drop()
        if self._settled is None:
            await self._helo(mail.session)
        return self._settled or await self._begin_on(self._opened(), mail)

    async def _begin_on(self, link: Link, mail: Mail) -> Verdict:
        if link.machine.in_mail:  # the one before was given up, or refused by somebody else
            link.machine.abort()
        self._mail = mail.id
        size = () if mail.declared_size is None else (f"SIZE={mail.declared_size}",)
        link.machine.mail(_path(mail.sender), size, await self._mail_macros(mail))
        return verdict_of((await link.settle(self._timeouts.command)).decision)

    async def _recipient(self, mail: Mail, recipient: Recipient) -> Verdict:
        link = self._opened()
        known = macros.of_recipient(mail, recipient.address, await self._known_names(mail.session))
        link.machine.rcpt(_path(recipient.address), _parameters(recipient), known)
        return verdict_of((await link.settle(self._timeouts.command)).decision)

    async def _content(self, mail: Mail) -> Verdict:
        link = self._opened()
        machine = link.machine
        known = await self._mail_macros(mail)
        machine.data(known)
        settled = await link.settle(self._timeouts.command)
        fields = mail.headers.fields
        header = Header([name for name, _ in fields], own_received(fields, mail.id))
        if machine.in_mail and machine.wants_headers:
            settled = await self._tell_header(link, fields, header.own_received)
        if machine.in_mail:
            machine.end_of_header(known)
            settled = await link.settle(self._timeouts.command)
        if machine.in_mail and machine.wants_body:
            settled = await self._tell_body(link, mail.content)
        if machine.in_mail:
            machine.end_of_body(known)
            settled = await link.settle(self._timeouts.content)
        return self._verdict(settled, header)

    async def _tell_header(self, link: Link, fields: Sequence[tuple[str, bytes]], own: int | None) -> Settled:
        settled = Settled(Decision.CONTINUE)
        for place, (name, value) in enumerate(fields):
            if place == own or not name:  # ours, or a line that is no field
                continue
            link.machine.header(name, value)
            settled = await link.settle(self._timeouts.command)
            if not link.machine.in_mail:
                break
        return settled

    def _verdict(self, settled: Settled, header: Header) -> Verdict:
        verdict = verdict_of(settled.decision)
        if not isinstance(verdict, Continue):
            return verdict
        try:
            translated = translate(settled.asked, header)
        except MilterProtocolError as error:
            raise MilterFailed(f"the milter at {self._address} asked for {error}") from error
        if translated.quarantine is not None:
            return Quarantine(translated.quarantine or "held by a milter", translated.changes)
        return Continue(translated.changes) if translated.changes else CONTINUE

    async def _tell_body(self, link: Link, content: Content) -> Settled:
        machine = link.machine
        settled = Settled(Decision.CONTINUE)
        offset = content.header_octets + 2  # the empty line
        while machine.in_mail and machine.wants_body:
            piece = await content.read(offset, wire.MAX_DATA_OCTETS)
            if not piece:
                break
            offset += len(piece)
            machine.body(piece)
            settled = await link.settle(self._timeouts.command)
        return settled

    # ---- the connection --------------------------------------------------------------------------

    async def _known_names(self, session: Session) -> Names:
        """The names, asked for once a session."""
        if self._names is None:
            hostname, client = self._host.hostname, session.client
            if self._client_names:
                self._names = await names_of(self._host.resolver, hostname, client)
            else:
                self._names = without_dns(hostname, client)
        return self._names

    async def _mail_macros(self, mail: Mail) -> Mapping[str, str]:
        return macros.of_mail(mail, await self._known_names(mail.session))

    def _is_open(self, mail: Mail) -> bool:
        """Whether the milter still wants to hear of this mail. Raises `MilterFailed` when it has not heard of its
        beginning: a filter that sees a mail without its sender would judge another mail."""
        if self._settled is not None:
            return False
        if self._link is None or self._mail != mail.id:
            raise MilterFailed(f"the milter at {self._address} was not told of this mail from its beginning")
        return self._link.machine.in_mail

    def _opened(self) -> Link:
        assert self._link is not None
        return self._link

    async def _guarded(self, asking: Awaitable[Verdict]) -> Verdict:
        """Ask; a connection on which that did not end well is closed, since nobody knows what comes on it next."""
        try:
            return await asking
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.abort()


def _path(address: Address | None) -> str:
    return "<>" if address is None else f"<{address}>"


def _parameters(recipient: Recipient) -> list[str]:
    """The parameters of RCPT, RFC 3461 §4.1, §4.2: those that the client gave, as we would give them on."""
    command = rcpt_command(recipient, _DSN, unicode=False)
    return command.removeprefix(f"RCPT TO:{_path(recipient.address)}").split()
