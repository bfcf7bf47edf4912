"""What happened in a simulated world, as its parts tell it.

What is not here: whether that was right (`testing.invariants`). Times are virtual seconds on Trio's clock unless a
field says wall. The events, one line each, are the world's history: the same seed writes the same history.
"""

import enum
import hashlib
from collections.abc import Sequence
from math import inf

import trio
from attrs import define, field, frozen

from elemta.config.reload import take_over
from elemta.config.sections import Config
from elemta.mail.outcome import Attempt
from elemta.simulation.personality import Handshake
from elemta.simulation.pipe import VirtualStream, Wire
from elemta.storage.base import Verb
from elemta.storage.records import QueuedMail

#: The field that names a simulated mail in its own header, wherever it goes.
TAG_FIELD = b"X-Simulated: "


#: The field of a report that names the mail of the queue which it is about.
_ABOUT_FIELD = b"X-Elemta-Queue-Id: "


def tag_of(content: bytes) -> str:
    """The tag of a mail's content, or of the content that a report returns; empty when there is none."""
    return _field_of(content, TAG_FIELD)


def _field_of(content: bytes, name: bytes) -> str:
    at = content.find(name)
    if at < 0:
        return ""
    start = at + len(name)
    return content[start : content.index(b"\r\n", start)].decode("ascii")


def reported(content: bytes) -> tuple[str, ...]:
    """The recipients whose failure a delivery report names, RFC 3464 §2.3."""
    found: list[str] = []
    recipient = ""
    for line in content.split(b"\r\n"):
        name, _, value = line.decode("utf-8", "replace").partition(":")
        if name.lower() == "final-recipient":
            recipient = value.partition(";")[2].strip()
        elif name.lower() == "action" and value.strip().lower() == "failed" and recipient:
            found.append(recipient)
    return tuple(found)


class Answer(enum.Enum):
    """What a client knows of a mail that it tried to hand over."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    #: The final dot was never sent whole: nobody may have the mail.
    INCOMPLETE = "incomplete"
    #: The final dot went out, and no answer came.
    UNKNOWN = "unknown"
    #: It was said in clear behind STARTTLS: nobody may believe it (RFC 3207 §4.2).
    INJECTED = "injected"


@frozen
class Submitted:
    """One try of a client to hand over a mail. `recipients` are those that the server took at RCPT.

    The session with the server at the address `server` began between `connected` and `greeted`.
    """

    at: float
    tag: str
    sender: str
    recipients: tuple[str, ...]
    answer: Answer
    reply: str = ""
    server: str = ""
    connected: float = 0.0
    greeted: float = 0.0


@frozen(eq=False)
class Kept:
    """A mail that a remote host kept for one recipient.

    `about` are the failed recipients that a report names, empty for other mail. `server` is the address that it came
    from. `wire` and `upto` tell how far the server must have read to know of it; `wire` is None when the host never
    answered.
    """

    at: float
    host: str
    server: str
    tag: str
    sender: str
    recipient: str
    content: bytes = field(repr=False)
    about: tuple[str, ...] = ()
    wire: Wire | None = None
    upto: int = 0

    @property
    def answered(self) -> bool:
        """True when the server has read the final reply."""
        return self.wire is not None and self.wire.taken >= self.upto


@frozen
class Heard:
    """A recipient that a host was told of at RCPT, by the server at the address `server`.

    `encrypted` says whether over TLS, `certified` whether the host's certificate is good. `requiretls` is what it
    offered there, `asked` what MAIL said.
    """

    at: float
    host: str
    server: str
    sender: str
    recipient: str
    encrypted: bool = False
    certified: bool = False
    requiretls: bool = False
    asked: bool = False
    lmtp: bool = False


@frozen
class Shaken:
    """A client's handshake with the server; `meant` is what the client had in mind, `worked` whether TLS came of it.

    `cut` says whether the client's own connection was to break then.
    """

    began: float
    ended: float
    client: str
    meant: Handshake
    cut: bool
    worked: bool


@frozen
class Settled:
    """An attempt's end, as life `life` made it durable. `wall` is the wall clock then; `mail` is None when it left the
    queue."""

    at: float
    wall: float
    life: int
    mail: QueuedMail | None
    attempts: tuple[Attempt, ...]


@frozen
class AtHand:
    """When a mail was taken to be tried, in which life of the server."""

    at: float
    life: int


@define(eq=False)
class Member:
    """A node's time in a shared queue under one token. `ended_by` says what ended it: a join, an adoption, a leave;
    `uncertain` which mails had attempts in flight then."""

    owner: str
    token: int
    since: float
    until: float = inf
    ended_by: str = ""
    uncertain: tuple[str, ...] = ()


@define(eq=False)
class Lived:
    """A life of the server at `address`. `configs` are its configurations, each with when it was taken over."""

    address: str
    since: float
    until: float = inf
    configs: list[tuple[float, Config]] = field(factory=list)

    def held(self, since: float, until: float) -> list[Config]:
        """What held at any time of this span."""
        ends = [at for at, _ in self.configs[1:]] + [inf]
        begun = zip(self.configs, ends, strict=False)
        return [config for (at, config), end in begun if at <= until and end >= since]


@frozen
class Frozen:
    """A time in which nothing in the server at `address` ran."""

    address: str
    since: float
    until: float


@frozen
class Drained:
    """A drain that ended a life of the server, from its order to the end of `run`; attempts had time until `until`."""

    life: int
    at: float
    until: float
    ended: float


@frozen
class Obeyed:
    """An operator's order that changed a mail, and when."""

    at: float
    verb: Verb


@define(eq=False)
class Passage:
    """One queued mail on its way through the store. `about` are the failed recipients that a report names.

    `at_hand` is each time that the server took it into its memory to try it: with its insert, or by a claim.
    """

    mail: QueuedMail
    tag: str
    inserted_at: float
    about: tuple[str, ...] = ()
    at_hand: list[AtHand] = field(factory=list)
    begun: list[float] = field(factory=list)
    settled: list[Settled] = field(factory=list)
    orders: list[Obeyed] = field(factory=list)
    left_at: float | None = None
    #: When an operator deleted it for good.
    deleted_at: float | None = None
    withdrawn: bool = False
    #: All records of the store, read when the world ended.
    attempts: tuple[Attempt, ...] = ()

    @property
    def is_report(self) -> bool:
        """True for a bounce."""
        return self.mail.envelope.reverse_path is None


@frozen
class Complaint:
    """A warning or an error in the server's log."""

    at: float
    level: str
    event: str
    details: str


class Record:
    """The history of one world."""

    def __init__(self) -> None:
        self.events: list[str] = []
        #: The content of every mail that a client began, by its tag.
        self.sent: dict[str, bytes] = {}
        self.submitted: list[Submitted] = []
        self.kept: list[Kept] = []
        #: Recipients that hosts were told of.
        self.heard: list[Heard] = []
        #: Handshakes of clients.
        self.shaken: list[Shaken] = []
        #: What the server said to clients or hosts that TLS forbids, in sentences.
        self.slips: list[str] = []
        self.passages: dict[str, Passage] = {}
        self.complaints: list[Complaint] = []
        self.crashes: list[float] = []
        #: Commits that any life of the server asked for.
        self.commits = 0
        #: The servers' lives, in the order of their beginnings; a life's number is its place, counted from 1.
        self.lived: list[Lived] = []
        self.frozen: list[Frozen] = []
        #: Of a shared queue: each node's times in it, and what its ledger found wrong.
        self.members: list[Member] = []
        self.breaches: list[str] = []
        #: When each life ended by a crash or a drain, by its number.
        self.ends: dict[int, float] = {}
        self.drains: list[Drained] = []
        #: The ids whose attempts a life found in flight when it joined, by its number.
        self.found: dict[int, Sequence[str]] = {}
        #: True when the world's time was over before its work was.
        self.overdue = False
        self.ended_at = 0.0
        #: The most transactions at once that hosts saw of a server, by its address and the destination, and in all
        #: under the empty name.
        self.busiest: dict[tuple[str, str], int] = {}
        self._tags: dict[str, str] = {}
        self._live = 0
        self._quiet = trio.lowlevel.ParkingLot()
        self._transactions: dict[VirtualStream, str] = {}

    def note(self, *words: object) -> None:
        """Write a line of history."""
        self.events.append(f"{trio.current_time():.6f} {' '.join(map(str, words))}")

    @property
    def history_hash(self) -> str:
        """The same for the same history."""
        return hashlib.sha256("\n".join(self.events).encode()).hexdigest()

    # ---- clients, hosts --------------------------------------------------------------------------

    def submit(self, submitted: Submitted) -> None:
        """A client learnt, or will never learn, what became of a mail."""
        self.submitted.append(submitted)
        self.note("client", submitted.tag, submitted.answer.value, submitted.reply)

    def keep(self, kept: Kept) -> None:
        """A host kept a mail."""
        self.kept.append(kept)
        self.note("host", kept.host, "kept", kept.tag or "report", kept.recipient, *kept.about)

    def shake(self, shaken: Shaken) -> None:
        """A client's handshake is over."""
        self.shaken.append(shaken)
        self.note("client", shaken.client, "shook hands" if shaken.worked else "shook no hands", shaken.meant.value)

    def slip(self, *words: object) -> None:
        """The server said what TLS forbids."""
        self.slips.append(f"at {trio.current_time():.3f} {' '.join(map(str, words))}")

    def begin_transaction(self, stream: VirtualStream, destination: str) -> None:
        """A host sees a mail come in. Those whose client has left already do not count."""
        self._transactions[stream] = destination
        server = stream.peer.host
        running = [where for one, where in self._transactions.items() if one.peer.host == server and not one.peer_left]
        for name, count in (("", len(running)), (destination, running.count(destination))):
            self.busiest[server, name] = max(count, self.busiest.get((server, name), 0))

    def end_transaction(self, stream: VirtualStream) -> None:
        """The host is done with it."""
        self._transactions.pop(stream, None)

    # ---- the store -------------------------------------------------------------------------------

    def tag_of(self, content: bytes) -> str:
        """The tag of a mail's content. A report whose store was away may have no original to return; then the queue id
        in it tells."""
        about = self.passages.get(_field_of(content, _ABOUT_FIELD))
        return tag_of(content) or ("" if about is None else about.tag)

    def learn_tag(self, content_id: str, content: bytes) -> None:
        """Remember which mail some content is."""
        tag = self.tag_of(content)
        if tag:
            self._tags.setdefault(content_id, tag)

    def insert(self, mail: QueuedMail, content: bytes | None, *, fenced: bool = False) -> None:
        """A mail became durable; again, when an insert was repeated.

        What left before its insert was repeated is back, for a store does not remember ids that left: unless it is
        `fenced`, and attempts tell that another node has finished it.
        """
        if content is not None:
            self.learn_tag(mail.content.id, content)
        known = self.passages.get(mail.id)
        if known is not None:
            if known.left_at is not None and not (fenced and self._was_tried(known)):
                known.deleted_at = known.left_at = None
                self._live += 1
                self.note("store", "insert", mail.id, "again")
            return
        tag = self._tags.get(mail.content.id, "")
        about = reported(content) if content is not None and mail.envelope.reverse_path is None else ()
        self.passages[mail.id] = Passage(mail, tag, trio.current_time(), about)
        self._live += 1
        self.note("store", "insert", mail.id, tag, mail.destination, mail.priority.name)

    def _was_tried(self, passage: Passage) -> bool:
        if any(settled.attempts for settled in passage.settled):
            return True
        return any(passage.mail.id in member.uncertain for member in self.members)

    def take_at_hand(self, queue_id: str, life: int) -> None:
        """The server of this life took a mail, to try it."""
        self.passages[queue_id].at_hand.append(AtHand(trio.current_time(), life))

    def begin(self, queue_id: str) -> None:
        """An attempt was marked."""
        self.passages[queue_id].begun.append(trio.current_time())
        self.note("store", "begin", queue_id)

    def settle(self, queue_id: str, settled: Settled) -> None:
        """An attempt's end became durable."""
        passage = self.passages[queue_id]
        passage.settled.append(settled)
        self.note("store", "settle", queue_id, *(f"{a.recipient}={a.result.value}" for a in settled.attempts))
        if settled.mail is None:
            self._leave(passage)

    def withdraw(self, queue_id: str) -> None:
        """A mail was taken back."""
        passage = self.passages[queue_id]
        passage.withdrawn = True
        self.note("store", "withdraw", queue_id)
        self._leave(passage)

    def obey(self, verb: Verb, ids: Sequence[str]) -> None:
        """An operator's order changed these mails."""
        self.note("store", verb.value, *ids)
        for queue_id in ids:
            passage = self.passages[queue_id]
            passage.orders.append(Obeyed(trio.current_time(), verb))
            if verb is Verb.DELETE:
                passage.deleted_at = trio.current_time()
                self._leave(passage)

    def _leave(self, passage: Passage) -> None:
        passage.left_at = trio.current_time()
        self._live -= 1
        if not self._live:
            self._quiet.unpark_all()

    async def wait_until_empty(self) -> None:
        """Wait until no mail is in the queue."""
        await trio.lowlevel.checkpoint()
        while self._live:
            await self._quiet.park()

    @property
    def live(self) -> Sequence[Passage]:
        """The mails that are in the queue."""
        return [passage for passage in self.passages.values() if passage.left_at is None]

    # ---- the server ------------------------------------------------------------------------------

    @property
    def lives(self) -> int:
        """How many lives have begun."""
        return len(self.lived)

    def begin_life(self, address: str) -> int:
        """A server starts; the number of its life."""
        self.lived.append(Lived(address, trio.current_time()))
        return len(self.lived)

    def take_over(self, life: int, config: Config) -> None:
        """A server goes on with this configuration, or begins with it."""
        lived = self.lived[life - 1]
        if lived.configs:
            changed = take_over(lived.configs[-1][1], config).changed
            self.note("server", lived.address, "takes over another configuration:", *changed)
        lived.configs.append((trio.current_time(), config))

    def held(self, server: str, since: float, until: float) -> list[Config]:
        """The configurations that the server at an address had at any time of this span."""
        lives = [each for each in self.lived if each.address == server and each.since <= until and each.until >= since]
        return [config for lived in lives for config in lived.held(since, until)]

    def end_life(self, life: int) -> None:
        """A life is over, however it ended. The first end counts."""
        lived = self.lived[life - 1]
        lived.until = min(lived.until, trio.current_time())

    def crash(self, life: int, why: str) -> None:
        """The machine of this life stopped."""
        self.crashes.append(trio.current_time())
        self.ends[life] = trio.current_time()
        self.end_life(life)
        self.note("crash", self.lived[life - 1].address, why)

    def drained(self, life: int, at: float, seconds: float) -> None:
        """The life has ended in order, by a drain that began at `at`."""
        now = trio.current_time()
        self.ends[life] = now
        self.drains.append(Drained(life, at, at + seconds, now))
        self.note("server", self.lived[life - 1].address, "drained since", at)

    def freeze(self, address: str, since: float) -> None:
        """The server has stood still since then, and goes on."""
        self.frozen.append(Frozen(address, since, trio.current_time()))
        self.note("server", address, "goes on, frozen since", since)

    def complain(self, level: str, event: str, details: str) -> None:
        """The server logged a warning, or worse."""
        self.complaints.append(Complaint(trio.current_time(), level, event, details))
