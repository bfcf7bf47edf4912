"""One connection to a host with the client machine on it.

What is not here: which host is tried (`delivery.smtp`), how a connection comes to its first mail (`delivery.opening`:
STARTTLS, AUTH), how long it is kept (`delivery.pool`).
Deadlines are one cancel scope for an attempt at one host, moved from reply to reply (`Watch`): RFC 5321 §4.5.3.2 has
a time for each. Failures raised: `SessionFailed`; `AttemptStopped` when the gate closed.
"""

from collections.abc import Hashable, Mapping
from typing import Final

import trio
from attrs import field, frozen

from elemta.config.sections import TimeoutsSection
from elemta.delivery.base import AttemptStopped, Content, Gate
from elemta.delivery.clienttls import ClientTls, Trust
from elemta.delivery.credentials import Login
from elemta.delivery.hops import Hop
from elemta.delivery.tlspolicy import IN_CLEAR, TlsPolicy
from elemta.mail.outcome import Peer
from elemta.mail.reply import Reply
from elemta.net.base import Stream
from elemta.smtp.client import ClientMachine, ClientState
from elemta.smtp.client_commands import Transaction
from elemta.smtp.client_events import CLIENT_NEEDS_DATA, Awaited, ClientEvent, ContentWanted, Ended, Ready, Settled
from elemta.smtp.replies import RemoteProtocolError
from elemta.smtp.stuffing import BareNewline, DotStuffer
from elemta.tls.stream import TlsStream

#: Octets of content read, stuffed, and sent at a time: a hundred deliveries hold fifty megabytes so, and a thread
#: hop for each piece is under a tenth of what sending it costs.
PIECE_OCTETS: Final = 256 * 1024

#: Seconds that a deadline may come early: moving it costs as much as parsing a reply.
SLACK_SECONDS: Final = 1.0

#: Seconds for a goodbye that changes nothing for any mail.
QUIT_SECONDS: Final = 2.0


#: Seconds for a handshake, where nothing else is said: as for the clients of our own listeners (`tls`).
HANDSHAKE_SECONDS: Final = 30.0


class SessionFailed(Exception):
    """Nothing more is to be had from this connection. `reply` is what the host said, or ours for what it did.

    `is_final` says whether it is about the mail, and so for good; None leaves it to the reply.
    """

    def __init__(self, reply: Reply, *, is_final: bool | None = None) -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.is_final = is_final


def _patience(timeouts: TimeoutsSection, handshake: float) -> Mapping[Awaited, float]:
    return {
        Awaited.HANDSHAKE: handshake,
        Awaited.GREETING: timeouts.greeting_timeout,
        Awaited.HELLO: timeouts.greeting_timeout,
        Awaited.HELO: timeouts.greeting_timeout,
        Awaited.STARTTLS: timeouts.greeting_timeout,
        Awaited.AUTH: timeouts.greeting_timeout,
        Awaited.RSET: timeouts.mail_timeout,
        Awaited.MAIL: timeouts.mail_timeout,
        Awaited.RCPT: timeouts.rcpt_timeout,
        Awaited.DATA: timeouts.data_initiation_timeout,
        Awaited.FINAL: timeouts.data_termination_timeout,
        Awaited.EMPTY: timeouts.data_termination_timeout,
        Awaited.QUIT: QUIT_SECONDS,
        Awaited.CONTENT: timeouts.data_block_timeout,
        Awaited.NOTHING: timeouts.connect_timeout,
    }


@frozen(eq=False)
class ClientSecurity:
    """What a route asks of a connection before its first mail. `tls` is needed by every policy but `IN_CLEAR`, by
    every login; `tls_name` is what certificates hold instead of the host's name, `ca_file` whom they are trusted by.
    """

    policy: TlsPolicy = IN_CLEAR
    tls: ClientTls | None = None
    tls_name: str = ""
    ca_file: str = ""
    login: Login | None = None

    @property
    def trust(self) -> Trust:
        """Which certificates are taken."""
        policy = self.policy
        return Trust(policy.verifies, opportunistic=not policy.insists, ca_file=self.ca_file)


@frozen(eq=False)
class ClientOptions:
    """How this server speaks to others. `hostname` is what EHLO says, `handshake_timeout` is seconds.

    Connections are reused within one `route` only: another route may want another TLS policy or other credentials.
    """

    hostname: str
    timeouts: TimeoutsSection
    lmtp: bool = False
    route: Hashable = field(default="", repr=False)
    security: ClientSecurity = ClientSecurity()
    handshake_timeout: float = HANDSHAKE_SECONDS
    #: Seconds to wait for each reply.
    patience: Mapping[Awaited, float] = field(init=False, repr=False)

    @patience.default
    def _default_patience(self) -> Mapping[Awaited, float]:
        return _patience(self.timeouts, self.handshake_timeout)


class Watch:
    """The one cancel scope of an attempt at one host, and what it waits for at the moment."""

    __slots__ = ("_until", "awaited", "scope")

    def __init__(self, awaited: Awaited, seconds: float) -> None:
        self.awaited = awaited
        self._until = trio.current_time() + seconds
        self.scope = trio.CancelScope(deadline=self._until)

    def allow(self, awaited: Awaited, seconds: float) -> None:
        """Give the next step its time. A move of less than `SLACK_SECONDS` is not worth what it costs."""
        self.awaited = awaited
        until = trio.current_time() + seconds
        if not 0 <= until - self._until < SLACK_SECONDS:
            self._until = self.scope.deadline = until

    @property
    def reply(self) -> Reply:
        """What is said of a step that took too long."""
        return Reply(451, "4.4.2", f"timed out {_doing(self.awaited)}")


def _doing(awaited: Awaited) -> str:
    if awaited is Awaited.HANDSHAKE:
        return "in the TLS handshake"
    return "while connecting" if awaited is Awaited.NOTHING else f"waiting for the reply to {awaited.value}"


class Session:
    """A connection past its greeting. One task uses it at a time; between mails the pool keeps it."""

    def __init__(self, hop: Hop, stream: Stream, options: ClientOptions) -> None:
        self.hop = hop
        #: Whether the host's certificate was checked.
        self.verified = isinstance(stream, TlsStream) and options.security.policy.verifies
        self.peer = self._peer_over(stream)
        secure = isinstance(stream, TlsStream)
        self.machine = ClientMachine(options.hostname, lmtp=options.lmtp, peer=self.peer, secure=secure)
        self.opened_at = trio.current_time()
        #: Why there is no TLS though the host offered it; empty otherwise.
        self.missed_tls = ""
        #: Mails that were settled here.
        self.mails = 0
        #: What it may be reused for.
        self.key = pool_key(hop, options)
        self._options = options
        self._stream = stream

    def _peer_over(self, stream: Stream) -> Peer:
        tls = ""
        if isinstance(stream, TlsStream):
            tls = f"{stream.facts.version} {stream.facts.cipher}{' verified' if self.verified else ''}"
        return Peer(host=self.hop.host, address=str(self.hop.endpoint), tls=tls)

    async def greet(self, watch: Watch) -> None:
        """Wait for the greeting and the answer to EHLO, or for the latter alone. Raises `SessionFailed`."""
        event = await self.next_event(watch)
        if not isinstance(event, Ready):
            raise failure_of(event)

    @property
    def stream(self) -> Stream:
        """The stream below, for a handshake."""
        return self._stream

    def secure(self, stream: TlsStream, *, verified: bool) -> None:
        """Go on over TLS; the machine forgets what it heard, and says EHLO again."""
        self._stream = stream
        self.verified = verified
        self.peer = self._peer_over(stream)
        self.machine.tls_started(self.peer)

    async def transact(self, transaction: Transaction, content: Content, *, gate: Gate, watch: Watch) -> Settled:
        """Send one mail. Raises `SessionFailed`, and `AttemptStopped` when the gate closed before the final dot.

        After any failure, `machine.conclude` tells what it means for the recipients.
        """
        self.machine.begin(transaction)
        event = await self.next_event(watch)
        if isinstance(event, ContentWanted):
            await self._send_content(content, gate, watch=watch)
            event = await self.next_event(watch)
        if not isinstance(event, Settled):
            raise failure_of(event)
        self.mails += 1
        return event

    async def _send_content(self, content: Content, gate: Gate, *, watch: Watch) -> None:
        """Content and final dot: a small mail is one piece, and one send.

        The last piece shares the time of the final reply, which is longer than a piece's own.
        """
        patience = self._options.patience
        stuffer = DotStuffer()
        size = content.size
        offset = 0
        opened = False
        while True:
            awaited = Awaited.FINAL if size - offset <= PIECE_OCTETS else Awaited.CONTENT
            watch.allow(awaited, patience[awaited])
            if not opened and not await gate():
                raise AttemptStopped
            opened = True
            piece = await content.read(offset, PIECE_OCTETS)
            offset += len(piece)
            if not piece and offset != size:
                raise SessionFailed(Reply(451, "4.3.0", f"the stored mail ends at {offset} octets of {size}"))
            wire = _stuffed(stuffer, piece, last=offset >= size)
            if offset >= size:
                self.machine.end_content()
            if not await self._send(wire) or offset >= size:
                return  # the reply tells the rest

    async def next_event(self, watch: Watch) -> ClientEvent:
        """Send what is to be sent, wait for the machine's next event. Raises `SessionFailed`."""
        machine = self.machine
        patience = self._options.patience
        seen = -1
        while True:
            try:
                event = machine.next_event()
            except RemoteProtocolError as error:
                raise SessionFailed(Reply(451, "4.5.0", f"the host broke the protocol: {error}")) from error
            if event is not CLIENT_NEEDS_DATA:
                return event
            awaited = machine.awaited
            if machine.replies != seen:
                # A whole reply earns the next one its time; single octets earn nothing.
                seen = machine.replies
                watch.allow(awaited, patience[awaited])
            out = machine.data_to_send()
            if out:
                await self._send(out)
            try:
                machine.receive_data(bytes(await self._stream.receive_some()))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise _lost(watch.awaited) from error

    async def _send(self, data: bytes) -> bool:
        """False when the connection is broken: what the host said before it broke is still to be read."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    async def quit(self) -> None:
        """Say goodbye and close; takes `QUIT_SECONDS` at most. RFC 5321 §4.1.1.10 wants QUIT before a close.

        A host that has hung up hears nothing any more.
        """
        if self.machine.state is ClientState.CLOSED:
            self.abort()
            return
        watch = Watch(Awaited.QUIT, QUIT_SECONDS)
        try:
            with watch.scope:
                self.machine.quit()
                await self.next_event(watch)
                await self._stream.aclose()
        except (SessionFailed, trio.BrokenResourceError):
            pass  # whoever hangs up first has the last word
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once: a mail under way is cut off, so that the host cannot take it for whole."""
        self._stream.abort()


def _stuffed(stuffer: DotStuffer, piece: bytes, *, last: bool) -> bytes:
    try:
        wire = stuffer.feed(piece)
        return wire + stuffer.end() if last else wire
    except BareNewline as error:
        raise SessionFailed(Reply(554, "5.6.0", str(error))) from error


#: Route, LMTP or not, certificate checked or not, address: sessions with the same key may stand in for each other.
PoolKey = tuple[Hashable, bool, bool, Hop]


def pool_key(hop: Hop, options: ClientOptions) -> PoolKey:
    """The key of a session with this host."""
    return (options.route, options.lmtp, options.security.policy.verifies, hop)


def _lost(awaited: Awaited) -> SessionFailed:
    return SessionFailed(Reply(451, "4.4.2", f"connection lost {_doing(awaited)}"))


def failure_of(event: ClientEvent) -> SessionFailed:
    """What an event other than the expected one comes to: the end of the session."""
    assert isinstance(event, Ended), event
    if event.reply is not None:
        return SessionFailed(event.reply)
    return _lost(event.awaited)
