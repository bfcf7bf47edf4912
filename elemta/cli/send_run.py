"""The mails of `elemta send` on their way: one connection, transaction after transaction.

What is not here: the options (`cli.send`), the mail (`cli.send_message`). Connections are opened and mails given to
hosts by the code that delivers (`delivery.opening`, `delivery.session`); only what differs for a person who watches is
here: nothing is tried again later, and the first answer is the answer. Failures raised: `NotOpened`.
"""

from collections.abc import Callable, Sequence
from typing import Final

import trio
from attrs import evolve, field, frozen

from elemta.delivery.conversion import header_is_ascii, to_seven_bit
from elemta.delivery.hops import Hop
from elemta.delivery.opening import LoginRefused, open_session
from elemta.delivery.session import ClientOptions, Session, SessionFailed, Watch
from elemta.mail.envelope import Envelope
from elemta.mail.outcome import Deferred, Failed, Outcome
from elemta.mail.reply import Reply
from elemta.net.base import Endpoint, Network
from elemta.net.sockets import split_address
from elemta.smtp.client_checks import objection, recipient_objection
from elemta.smtp.client_commands import Transaction
from elemta.smtp.client_events import Awaited

#: RFC 5321 §4.5.4.2's port, and that of RFC 8314 §7.3.
SMTP_PORT: Final = 25
SUBMISSIONS_PORT: Final = 465


class NotOpened(Exception):
    """There is no session to send a mail over. `reply` says why; `is_login` where the login was refused."""

    def __init__(self, reply: Reply, *, is_login: bool) -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.is_login = is_login


@frozen
class Errand:
    """What is to be done. `pause` is seconds from one mail to the next."""

    hops: tuple[Hop, ...]
    options: ClientOptions
    envelope: Envelope
    count: int = 1
    pause: float = 0.0


@frozen
class OctetsContent:
    """A mail in memory."""

    octets: bytes = field(repr=False)

    @property
    def size(self) -> int:
        """Octets in all."""
        return len(self.octets)

    @property
    def eight_bit(self) -> bool:
        """True when it holds an octet over 127."""
        return not self.octets.isascii()

    async def read(self, offset: int, limit: int) -> bytes:
        """At most `limit` octets from `offset`."""
        return self.octets[offset : offset + limit]


async def find_hops(server: str, *, implicit: bool) -> tuple[Hop, ...]:
    """The addresses of `host`, `host:port`, `[v6]:port` or `unix:/path`. Raises `OSError`, `ValueError`."""
    if server.startswith("unix:"):
        return (Hop("localhost", Endpoint(server.removeprefix("unix:"))),)
    port = SUBMISSIONS_PORT if implicit else SMTP_PORT
    bare = server.removeprefix("[").removesuffix("]")
    host, port = (
        (bare, port) if ":" not in server or (server != bare and server.endswith("]")) else split_address(server)
    )
    rows = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    return tuple(Hop(host, Endpoint(str(row[4][0]), port)) for row in rows)


async def run_errand(
    errand: Errand, network: Network, *, write: Callable[[], bytes], settled: Callable[[Sequence[Outcome]], object]
) -> None:
    """Send each mail that `write` makes; `settled` hears of the outcomes, one a recipient. Raises `NotOpened`."""
    sender = _Sender(errand, network)
    began = trio.current_time()
    for index in range(errand.count):
        await trio.sleep_until(began + index * errand.pause)
        settled(await sender.send(OctetsContent(write())))
    await sender.close()


class _Sender:
    """The session, opened when there is a mail for it."""

    def __init__(self, errand: Errand, network: Network) -> None:
        self._errand = errand
        self._network = network
        self._session: Session | None = None

    async def send(self, content: OctetsContent) -> Sequence[Outcome]:
        """One mail. Raises `NotOpened`.

        A server that ends a session between two mails (421, or no word) has decided nothing: a fresh one is opened.
        """
        kept = self._session is not None
        outcomes = await self._attempt(content)
        if kept and self._session is None and not any(outcomes):
            outcomes = await self._attempt(content)
        return [outcome or Deferred(_UNDECIDED) for outcome in outcomes]

    async def _attempt(self, content: OctetsContent) -> Sequence[Outcome | None]:
        """Outcomes, None for recipients about whom nothing was said before the session broke."""
        kept = self._session is not None
        awaited = Awaited.MAIL if kept else Awaited.NOTHING
        watch = Watch(awaited, self._errand.options.patience[awaited])
        failure: SessionFailed | None = None
        try:
            with watch.scope:
                if self._session is None:
                    self._session = await self._open(watch)
                return await self._transact(self._session, content, watch)
        except SessionFailed as error:
            failure = error
        failure = failure or SessionFailed(watch.reply)
        session, self._session = self._session, None
        if session is None:
            raise NotOpened(failure.reply, is_login=isinstance(failure, LoginRefused))
        concluded = session.machine.conclude(failure.reply)
        session.abort()
        if any(concluded) or kept:
            return concluded or [None] * len(self._errand.envelope.recipients)
        judged = (Failed if failure.reply.is_permanent else Deferred)(failure.reply, session.peer)
        return [judged] * len(self._errand.envelope.recipients)

    async def _open(self, watch: Watch) -> Session:
        """A session with the first of the addresses that gives one. Raises `SessionFailed`, the last of them."""
        last = SessionFailed(Reply(451, "4.4.4", "the server has no address"))
        for hop in self._errand.hops:
            try:
                return await open_session(hop, self._network, options=self._errand.options, watch=watch)
            except LoginRefused:
                raise  # it would be refused at the next address as well, and count as one more guess
            except SessionFailed as error:
                last = error
        raise last

    async def _transact(self, session: Session, whole: OctetsContent, watch: Watch) -> Sequence[Outcome]:
        offered = session.machine.offered
        envelope = self._errand.envelope
        content = await to_seven_bit(whole) if whole.eight_bit and not offered.eight_bit_mime else whole
        unicode_header = envelope.smtputf8 and not await header_is_ascii(content)
        refused = objection(
            Transaction(envelope, content.size, content.eight_bit), offered, unicode_header=unicode_header
        )
        unfit = [refused or recipient_objection(each.address, offered) for each in envelope.recipients]
        fit = tuple(each for each, why in zip(envelope.recipients, unfit, strict=True) if why is None)
        outcomes: Sequence[Outcome] = ()
        if fit:
            transaction = Transaction(evolve(envelope, recipients=fit), content.size, content.eight_bit)
            settled = await session.transact(transaction, content, gate=_open_gate, watch=watch)
            outcomes = settled.outcomes
        left = iter(outcomes)
        return [next(left) if why is None else Failed(why, session.peer) for why in unfit]

    async def close(self) -> None:
        """Say goodbye."""
        session, self._session = self._session, None
        if session is not None:
            await session.quit()


_UNDECIDED: Final = Reply(451, "4.4.2", "the server ended the session before it took the mail")


async def _open_gate() -> bool:
    """Nothing has to be written down before the final dot."""
    return True
