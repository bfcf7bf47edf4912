"""The plugins' part in a session.

What is not here: calling them (`plugins.chain`), or writing down a changed mail (`inbound.rewrite`). A session without
plugins has none of this. Verdicts become replies; Discard and Quarantine wait for the end of the mail.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

import trio
from attrs import evolve, frozen

from elemta.mail.address import Address
from elemta.mail.envelope import Recipient
from elemta.mail.reply import Reply
from elemta.net.base import Stream
from elemta.plugins.api import Stage
from elemta.plugins.chain import Chain
from elemta.plugins.costs import SessionLedger, kept
from elemta.plugins.mail import MailInHand, SessionFacts
from elemta.plugins.tasks import TaskKeeper
from elemta.plugins.verdicts import CONTINUE, COSTS_KEY, ROUTE_KEY, Change, Defer, Discard, Quarantine, Reject, Verdict
from elemta.runtime.budget import ByteBudget
from elemta.smtp.events import MailFrom
from elemta.tls.stream import TlsFacts

#: Seconds that plugins have in all when a session has ended: nobody waits for them but the drain.
GOODBYE_SECONDS: Final = 5.0
#: RFC 3463 §3.4, mail system full: all mails together have more octets in memory than we give them.
NO_ROOM: Final = Reply(452, "4.3.1", "too many large mails at once, try again later")


@frozen
class Plugins:
    """The plugins of a server, as its sessions use them. `routes` are the names of routes."""

    chain: Chain
    keeper: TaskKeeper
    routes: frozenset[str] = frozenset()


class Client(Protocol):
    """What the session knows of its client."""

    @property
    def stream(self) -> Stream:
        """The connection."""
        ...

    @property
    def listener(self) -> str:
        """Where it came in."""
        ...

    @property
    def helo(self) -> str:
        """What it calls itself."""
        ...

    @property
    def tls(self) -> TlsFacts | None:
        """Its encryption."""
        ...

    @property
    def user(self) -> str:
        """Who logged in."""
        ...

    @property
    def may_relay(self) -> bool:
        """Whether it may send to every domain."""
        ...


class PluggedSession:
    """One session's side of it."""

    __slots__ = ("_client", "_mechanism", "_plugins", "facts")

    def __init__(self, plugins: Plugins, session_id: str, client: Client) -> None:
        self._plugins = plugins
        self._client: Client | None = client
        #: By which mechanism a user logged in last, or would have.
        self._mechanism = ""
        stream = client.stream
        self.facts = SessionFacts(session_id, stream.peer, stream.local, client.listener)

    @property
    def ledger(self) -> SessionLedger:
        """What plugins cost the session, its mails apart."""
        return self.facts.ledger

    def apply(self, changes: Sequence[Change]) -> None:
        """There is no mail to change. Raises `ValueError`."""
        raise ValueError("there is no mail yet that could be changed")

    def _know(self, user: str = "") -> None:
        """Take in what has become known of the client."""
        client, facts = self._client, self.facts
        assert client is not None
        version, cipher = ("", "") if client.tls is None else (client.tls.version, client.tls.cipher)
        who, mechanism = (user or client.user), self._mechanism
        known = (client.helo, version, cipher, who, mechanism if who else "", bool(user) or client.may_relay)
        if known != (facts.helo, facts.tls, facts.cipher, facts.user, facts.mechanism, facts.may_relay):
            helo, tls, cipher, user, mechanism, may_relay = known
            self.facts = evolve(
                facts, helo=helo, tls=tls, cipher=cipher, user=user, mechanism=mechanism, may_relay=may_relay
            )

    async def login_refusal(self, user: str, mechanism: str) -> Reply | None:
        """Why the user, whose password is right and who does not know it yet, may not log in; None who may."""
        self._mechanism = mechanism
        return await self.refusal(Stage.AUTH, user)

    async def refusal(self, stage: Stage, user: str = "") -> Reply | None:
        """Why the client may not go on; None when it may. `user` has logged in, and does not know it yet.

        A refusal in place of the greeting is 554, or 421 where the client may come again, RFC 5321 §3.1.
        """
        chain = self._plugins.chain
        if not chain.has(stage):
            return None
        self._know(user)
        refusal = reply_of(await chain.ask(stage, self, self.facts))
        if refusal is None or stage is not Stage.CONNECT or refusal.code in (421, 554):
            return refusal
        return evolve(refusal, code=421 if refusal.is_transient else 554)

    def seconds(self, *stages: Stage) -> float:
        """How long plugins may take at these stages together."""
        seconds = self._plugins.chain.seconds
        return sum([seconds[stage] for stage in stages])

    def mail(self, queue_id: str, start: MailFrom, *, budget: ByteBudget) -> "PluggedMail":
        """A mail begins; `budget` has room for the bodies that plugins give it."""
        self._know()
        mail = PluggedMail(self._plugins, queue_id, self.facts, start.reverse_path, start.size)
        mail.in_hand.budget = budget
        return mail

    async def end(self) -> None:
        """The session is over."""
        chain = self._plugins.chain
        if chain.has(Stage.DISCONNECT):
            self._know()
        self._client = None  # it knows us: two that know each other wait for the garbage collector
        if chain.has(Stage.DISCONNECT):
            with trio.move_on_after(GOODBYE_SECONDS, shield=True):
                await chain.tell(Stage.DISCONNECT, self, self.facts)


class PluggedMail:
    """One mail's side of it. `close` must be called when the mail is queued or refused."""

    __slots__ = ("_chain", "fate", "in_hand")

    def __init__(
        self, plugins: Plugins, queue_id: str, facts: SessionFacts, sender: Address | None, declared_size: int | None
    ) -> None:
        self._chain = plugins.chain
        self.in_hand = MailInHand(
            queue_id, facts, sender, declared_size=declared_size, routes=plugins.routes, keeper=plugins.keeper
        )
        #: What becomes of the mail at its end, when a plugin decided that before.
        self.fate: Discard | Quarantine | None = None

    async def refusal(self, stage: Stage, recipient: Recipient | None = None) -> Reply | None:
        """Why the mail (or this recipient) is not taken; None when it is."""
        if not self._chain.has(stage) or isinstance(self.fate, Discard):
            return None
        in_hand = self.in_hand
        if recipient is None:
            verdict = await self._chain.ask(stage, in_hand, in_hand)
        else:
            verdict = await self._chain.ask(stage, in_hand, in_hand, recipient)
        if verdict is CONTINUE and not in_hand.is_too_large_now:
            return None
        if isinstance(verdict, Discard) or (isinstance(verdict, Quarantine) and self.fate is None):
            self.fate = verdict
        return NO_ROOM if in_hand.is_too_large_now else reply_of(verdict)

    async def queued(self, say: Callable[[], Awaitable[None]]) -> None:
        """The mail is durable; `say` tells the client, who need not wait for what plugins do about it."""
        try:
            if self._chain.has(Stage.QUEUED):
                await self._say_and_tell(say)
        finally:
            self.close()

    async def _say_and_tell(self, say: Callable[[], Awaitable[None]]) -> None:
        lost: Exception | None = None
        try:
            await say()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            lost = error  # the client is gone, the mail is not
        await self._chain.tell(Stage.QUEUED, self.in_hand, self.in_hand)
        if lost is not None:
            raise lost

    @property
    def facts(self) -> dict[str, object]:
        """What the log line of the mail says of them: who was slow, and what they decided at its end."""
        facts: dict[str, object] = {}
        if late := self.in_hand.ledger.slow:
            facts["slow_plugins"] = late
        if self.fate is not None:
            facts["fate"] = f"{type(self.fate).__name__.lower()}: {self.fate.reason}"
        return facts

    @property
    def annotations(self) -> Mapping[str, str]:
        """What is kept with the mail: the plugins' words about it, and what they cost."""
        in_hand = self.in_hand
        annotations = in_hand.annotations
        annotations[COSTS_KEY] = kept(in_hand.ledger)
        if in_hand.route:
            annotations[ROUTE_KEY] = in_hand.route
        return annotations

    def abandon(self) -> None:
        """The mail was not taken: it has no log line of its own, what it cost goes to its session's."""
        self.in_hand.session.ledger.lose(self.in_hand.ledger)
        self.close()

    def close(self) -> None:
        """End its tasks, and give back what it took."""
        self.in_hand.release()


def reply_of(verdict: Verdict) -> Reply | None:
    """What the client hears of a verdict at once."""
    return verdict.reply if isinstance(verdict, Reject | Defer) else None
