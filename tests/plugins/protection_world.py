"""What tests of the plugins of protection share: a host in virtual time, scripted DNS, a store that can fail."""

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import structlog
import trio
from structlog.testing import LogCapture

from elemta.mail.address import Address
from elemta.mail.envelope import Recipient
from elemta.net.base import Endpoint
from elemta.plugins.api import KeyValue, SharedAway, Verdict
from elemta.plugins.mail import MailInHand, SessionFacts
from elemta.plugins.verdicts import Annotate, Continue
from elemta.resolver.base import MailExchanger
from elemta.runtime.threads import InlineThreads
from elemta.simulation.clock import VirtualClock
from elemta.simulation.resolver import Name, ScriptedResolver
from elemta.storage.keyvalue_memory import MEMORY_ENTRIES, MemoryKeyValue

CLIENT = "192.0.2.1"


class CountingResolver(ScriptedResolver):
    """Scripted DNS that counts what it was asked, and how many questions were under way at once."""

    def __init__(self, names: Mapping[str, Name], *, seconds: float = 0.02) -> None:
        super().__init__(names, random.Random(1), seconds=seconds)
        self.asked: Counter[str] = Counter()
        self.most_at_once = self._at_once = 0

    async def _name(self, text: str) -> Name:
        self.asked[text] += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await super()._name(text)
        finally:
            self._at_once -= 1


class FailingKeyValue(KeyValue):
    """A store that is away, hangs, or lets somebody else be faster, when told."""

    def __init__(self, behind: KeyValue) -> None:
        self.behind = behind
        self.is_away = False
        self.hangs_seconds = 0.0
        #: Swaps that another node is quicker at.
        self.lost_swaps = 0
        self.calls: Counter[str] = Counter()

    async def _enter(self, verb: str) -> None:
        self.calls[verb] += 1
        await trio.sleep(self.hangs_seconds)
        if self.is_away:
            raise SharedAway("the database is away")

    async def get(self, key: str) -> bytes | None:
        await self._enter("get")
        return await self.behind.get(key)

    async def put(self, key: str, value: bytes, *, seconds: float) -> None:
        await self._enter("put")
        await self.behind.put(key, value, seconds=seconds)

    async def swap(self, key: str, old: bytes | None, new: bytes, *, seconds: float) -> bool:
        await self._enter("swap")
        if self.lost_swaps:
            self.lost_swaps -= 1
            return False
        return await self.behind.swap(key, old, new, seconds=seconds)

    async def add(self, key: str, amount: int = 1, *, seconds: float) -> int:
        await self._enter("add")
        return await self.behind.add(key, amount, seconds=seconds)

    async def delete(self, key: str) -> None:
        await self._enter("delete")
        await self.behind.delete(key)


class World:
    """One or more nodes on one store, one clock, one DNS."""

    def __init__(
        self, names: Mapping[str, Name] | None = None, *, dns_seconds: float = 0.02, entries: int = MEMORY_ENTRIES
    ) -> None:
        self.clock = VirtualClock()
        self.resolver = CountingResolver(names or {}, seconds=dns_seconds)
        self.store = MemoryKeyValue(self.clock, entries=entries)
        self.capture = LogCapture()
        self.shared = FailingKeyValue(self.store.of("plugin"))

    def host(self) -> Any:
        """A host as one node has it."""
        return FakeHost(self)

    def events(self, name: str) -> list[dict[str, Any]]:
        """What was logged under one name."""
        return [dict(entry) for entry in self.capture.entries if entry["event"] == name]


class FakeHost:
    """Fits `plugins.api.Host`, as far as protection needs it."""

    hostname = "mx.here.example"

    def __init__(self, world: World) -> None:
        self.log = structlog.wrap_logger(None, processors=[world.capture])
        self.clock = world.clock
        self.resolver = world.resolver
        self.threads = InlineThreads()
        self.shared = world.shared


def a_session(client: str = CLIENT, **facts: Any) -> SessionFacts:
    """A session of a stranger, unless `facts` say otherwise."""
    options: dict[str, Any] = {"helo": "client.example", "local": Endpoint("198.51.100.25", 25)} | facts
    return SessionFacts("s1", Endpoint(client, 4711), listener="smtp", **options)


def a_mail(session: SessionFacts | None = None, sender: str = "s@sender.example", **options: Any) -> MailInHand:
    """A mail at MAIL; an empty sender is the null reverse-path."""
    local, _, domain = sender.rpartition("@")
    return MailInHand("q1", session or a_session(), Address(local, domain) if sender else None, **options)


def to(address: str = "r@here.example") -> Recipient:
    """A recipient."""
    local, _, domain = address.rpartition("@")
    return Recipient(Address(local, domain))


def with_content(mail: MailInHand, octets: int) -> MailInHand:
    """The mail, all of it there."""

    async def read(offset: int, limit: int) -> bytes:
        return bytes(min(limit, octets - offset))

    mail.content_came(read, header_octets=0, size=octets)
    return mail


def reply_of(verdict: Verdict) -> str:
    """What the client hears; empty when it goes on."""
    reply = getattr(verdict, "reply", None)
    return "" if reply is None else str(reply)


def word_of(verdict: Verdict) -> str:
    """What is annotated; empty for nothing."""
    assert isinstance(verdict, Continue), verdict
    words = [change.value for change in verdict.changes if isinstance(change, Annotate)]
    return ", ".join(words)


def listed(*answers: str, texts: tuple[str, ...] = ()) -> Name:
    """A name of a list."""
    return Name(addresses=answers, texts=texts)


def mx(*hosts: str) -> Name:
    """A domain with exchangers."""
    return Name(tuple(MailExchanger(10, host) for host in hosts))
