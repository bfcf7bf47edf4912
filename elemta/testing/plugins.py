"""A bench for plugins: one of them at work, in virtual time, without a server or a network.

    async def test_invoices(plugin_bench: MakeBench) -> None:
        async with plugin_bench(NoInvoices, settings={"words": ["invoice"]}) as bench:
            answer = await bench.mail(b"Subject: an invoice\\n\\nPay!\\n")
        assert answer.verdict == Reject("no invoices here")

Single mails go through the real chain (`mail`), dialogues through the real inbound service (`dialogue`), and
`world_of` makes a simulated world of a whole server. The fixtures `plugin_bench` and `simulated_world` come from
`elemta.testing.plugin`. What is not here: assertions.
Failure raised: `PluginBroken` where the plugin failed and the test did not say `on_error`.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final, Protocol

import structlog
import trio
from attrs import evolve, field, frozen
from structlog.testing import LogCapture

from elemta.config.plugins import PluginEntry, PluginFailure, PluginsSection
from elemta.config.wanted import Wanted
from elemta.mail.envelope import Priority, Recipient
from elemta.mail.headers import header_block
from elemta.net.base import Endpoint
from elemta.observe.metrics import Metrics
from elemta.plugins.api import CONTINUE, Continue, Discard, OnError, Plugin, Quarantine, Stage, Verdict
from elemta.plugins.chain import Chain, Member
from elemta.plugins.costs import Cost, Ledger
from elemta.plugins.host import Facilities
from elemta.plugins.loader import Found, load_plugins
from elemta.plugins.mail import MailInHand, SessionFacts
from elemta.plugins.tasks import TaskKeeper
from elemta.queue.submission import Submission
from elemta.simulation.clients import ClientScript, MailScript
from elemta.simulation.clock import VirtualClock, chance_of
from elemta.simulation.network import VirtualNetwork
from elemta.simulation.personality import Personality
from elemta.simulation.resolver import Name, ScriptedResolver
from elemta.simulation.scenario import SENDER_ADDRESS, SENDER_DOMAIN, Scenario, name_with_mx, server_config
from elemta.smtp.grammar import parse_address
from elemta.storage.keyvalue_memory import MemoryKeyValue
from elemta.testing.door import HOSTNAME, SERVER, KeptMails, talk
from elemta.testing.threads import PatientThreads

#: The session of a mail that no test has given one. Addresses are those of documentation, RFC 5737 §3.
SESSION: Final = SessionFacts(
    "s1", Endpoint("192.0.2.1", 4711), Endpoint(SERVER, 25), "smtp", helo="client.example.org"
)
#: Names of routes that plugins may give with `SetRoute`.
ROUTES: Final = frozenset({"backup", "smarthost"})
#: Where the host of `one.test` is, in worlds.
WORLD_HOST: Final = "198.51.100.10"
_NEWLINE: Final = re.compile(rb"\r?\n")


class PluginBroken(AssertionError):
    """The plugin raised, took too long, or answered what may not be answered; its own exception is the cause."""


@frozen
class Answer:
    """What became of one mail. `stage` is where the plugin decided; None where it let the mail through."""

    verdict: Verdict
    stage: Stage | None
    #: The whole mail with the plugin's changes.
    content: bytes = field(repr=False)
    sender: str
    recipients: tuple[str, ...]
    #: Recipients that were refused at RCPT, with the verdict.
    refused: Mapping[str, Verdict]
    priority: Priority | None
    route: str
    score: float
    annotations: Mapping[str, str]
    cost: Cost


class PluginBench:
    """One plugin at work."""

    def __init__(self, plugin: type[Plugin], names: Mapping[str, Name], entry: PluginEntry) -> None:
        """Raises `PluginsUnusable` for a class or for settings that the server would not take."""
        self._capture = LogCapture()
        log = structlog.wrap_logger(None, processors=[self._capture])
        #: Where the plugin connects to: `bench.network.host("198.51.100.7").listen(":783", 10)`.
        self.network = VirtualNetwork(chance_of(0, "network"))
        self.clock = VirtualClock()
        self.keeper = TaskKeeper(log)
        self.metrics = Metrics()
        self._facilities = Facilities(
            hostname=HOSTNAME,
            log=log,
            clock=self.clock,
            network=self.network.host(SERVER),
            resolver=ScriptedResolver(names, chance_of(0, "resolver")),
            threads=PatientThreads(),
            keeper=self.keeper,
            shared_of=MemoryKeyValue(self.clock).of,
            routes=ROUTES,
        )
        found = Found(entry.name, plugin.__module__, partial(_itself, plugin))
        (self._member,) = load_plugins([Wanted(entry, "the test")], {entry.name: found}, self._facilities.host)
        self.chain = Chain([self._member], log=log, metrics=self.metrics)
        self._is_strict = entry.on_error is None
        #: Mails of dialogues that came through to the queue.
        self.submitted: list[Submission] = []

    @property
    def plugin(self) -> Any:
        """The plugin itself."""
        return self._member.plugin

    @property
    def member(self) -> Member:
        """The plugin with what holds for it: priority, deadline, circuit breaker."""
        return self._member

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's events of a name."""
        return [dict(entry) for entry in self._capture.entries if entry["event"] == name]

    # ---- single mails --------------------------------------------------------------------------------

    async def mail(
        self,
        content: bytes,
        *,
        sender: str = "jo@example.org",
        recipients: Sequence[str] = ("max@example.com",),
        session: SessionFacts = SESSION,
    ) -> Answer:
        """Bring one mail, in a session of its own; lines of `content` may end as they like.

        An empty `sender` is the null reverse-path. Asked as in a server, but for the stages of delivery, and of AUTH
        where the session has no user. Raises `PluginBroken`.
        """
        session = evolve(session, notes={}, ledger=type(session.ledger)())
        mail = MailInHand(
            "q1",
            session,
            parse_address(sender) if sender else None,
            routes=ROUTES,
            keeper=self.keeper,
        )
        visit = _Visit(self, session, mail)
        await visit.session([Stage.CONNECT, Stage.HELO, *([Stage.AUTH] if session.user else [])])
        mail.ledger = Ledger(session.ledger)  # it begins here, with what its session cost so far
        await visit.envelope([Recipient(parse_address(one)) for one in recipients])
        await visit.content(_NEWLINE.sub(b"\r\n", content))
        mail.end_tasks()
        await self.chain.tell(Stage.DISCONNECT, visit, session)
        self.be_well()
        return await visit.answer(self._member.name)

    def be_well(self) -> None:
        """Raise `PluginBroken` when the plugin has failed, unless the test said `on_error`."""
        failures = self.events("plugin.failed") + self.events("plugin.task_failed") if self._is_strict else []
        for entry in failures:
            error = entry.get("exc_info")
            where = f" at {entry['stage']}" if "stage" in entry else ""
            says = f"the plugin {entry['plugin']} {entry.get('how', 'raised in a task')}{where}: {entry['error']}"
            raise PluginBroken(says) from (error if isinstance(error, BaseException) else None)

    def forgive(self) -> None:
        """Forget the failures so far: the test has seen what it wanted to see."""
        self._capture.entries.clear()

    # ---- dialogues -----------------------------------------------------------------------------------

    async def dialogue(self, *lines: str | bytes, client: str = "192.0.2.1") -> list[str]:
        """Say these lines to a server with the plugin; the replies, the greeting first.

        The next one is sent when the reply is there. Lines of one reply are joined by newlines; the end of the
        connection is "", and nothing is said after it. A mail's content is one argument, which ends with a dot on a
        line of its own; it is left out where DATA was refused. Other arguments of many lines are sent at once, and
        each line has its reply. `client` may relay to every domain when it is 127.0.0.1, others may send to
        example.com. Raises `PluginBroken`.
        """
        queue = KeptMails()
        said = [_NEWLINE.sub(b"\r\n", one.encode() if isinstance(one, str) else one) + b"\r\n" for one in lines]
        replies = await talk(self._facilities, self.chain, queue, said=said, client=client)
        self.submitted += queue.submitted
        self.be_well()
        return replies


class _Visit:
    """One session with one mail: asks stage by stage, until the plugin refuses."""

    def __init__(self, bench: PluginBench, session: SessionFacts, mail: MailInHand) -> None:
        self._chain = bench.chain
        self._session = session
        self._mail = mail
        self.ledger = session.ledger
        self._verdict: Verdict = CONTINUE
        self._stage: Stage | None = None
        self._over = False
        self._refused: dict[str, Verdict] = {}

    def apply(self, changes: Sequence[object]) -> None:
        """There is no mail yet. Raises `ValueError`."""
        raise ValueError("there is no mail yet that could be changed")

    async def session(self, stages: Sequence[Stage]) -> None:
        """Connect, and say hello."""
        for stage in stages:
            if not self._over:
                self._take(stage, await self._chain.ask(stage, self, self._session))

    async def envelope(self, recipients: Sequence[Recipient]) -> None:
        """MAIL, and RCPT for each."""
        await self._ask(Stage.MAIL_FROM)
        for recipient in recipients:
            if self._over:
                return
            verdict = await self._chain.ask(Stage.RCPT_TO, self._mail, self._mail, recipient)
            if not isinstance(verdict, Continue | Quarantine | Discard):
                self._refused[str(recipient.address)] = verdict
                continue
            self._mail.add_recipient(recipient)
            self._take(Stage.RCPT_TO, verdict)
        if not self._over and len(self._refused) == len(recipients):
            self._take(Stage.RCPT_TO, next(iter(self._refused.values())))

    async def content(self, octets: bytes) -> None:
        """DATA."""
        block = header_block(octets)

        async def read(offset: int, limit: int) -> bytes:
            await trio.lowlevel.checkpoint()
            return octets[offset : offset + limit]

        self._mail.header_came(block)
        await self._ask(Stage.DATA_HEADERS)
        self._mail.content_came(read, header_octets=len(block), size=len(octets))
        await self._ask(Stage.DATA_COMPLETE)
        if not self._over:
            await self._chain.tell(Stage.QUEUED, self._mail, self._mail)

    async def _ask(self, stage: Stage) -> None:
        if not self._over:
            self._take(stage, await self._chain.ask(stage, self._mail, self._mail))

    def _take(self, stage: Stage, verdict: Verdict) -> None:
        """A refusal ends it; a quarantine waits for one."""
        if verdict == CONTINUE or (isinstance(verdict, Quarantine) and self._stage is not None):
            return
        self._verdict, self._stage = verdict, stage
        self._over = not isinstance(verdict, Quarantine)

    async def answer(self, plugin: str) -> Answer:
        """What became of it."""
        mail = self._mail
        return Answer(
            verdict=self._verdict,
            stage=self._stage,
            content=b"".join([piece async for piece in mail.content.chunks()]),
            sender="" if mail.sender is None else str(mail.sender),
            recipients=tuple(str(one.address) for one in mail.recipients),
            refused=self._refused,
            priority=mail.priority,
            route=mail.route,
            score=mail.score,
            annotations=mail.annotations,
            cost=mail.ledger.cost(plugin),
        )


class MakeBench(Protocol):
    """What the fixture `plugin_bench` gives."""

    def __call__(
        self,
        plugin: type[Plugin],
        *,
        settings: Mapping[str, object] | None = None,
        names: Mapping[str, Name] | None = None,
        deadline: float | None = None,
        on_error: OnError | None = None,
    ) -> AbstractAsyncContextManager[PluginBench]:
        """A bench for the block, the plugin started. `settings` are as in the configuration, `names` is all of DNS."""
        ...


@asynccontextmanager
async def bench_of(
    plugin: type[Plugin],
    *,
    settings: Mapping[str, object] | None = None,
    names: Mapping[str, Name] | None = None,
    deadline: float | None = None,
    on_error: OnError | None = None,
) -> AsyncIterator[PluginBench]:
    """As `MakeBench`. With `on_error` a failing plugin is contained as in a server; without, it fails the test."""
    bench = PluginBench(plugin, names or {}, _entry(plugin, settings, deadline=deadline, on_error=on_error))
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.keeper.run)
        await nursery.start(bench.chain.run)
        await bench.plugin.start()
        yield bench
        await bench.plugin.stop()
        nursery.cancel_scope.cancel()
    bench.be_well()


def world_of(
    plugin: type[Plugin],
    *mails: MailScript,
    settings: Mapping[str, object] | None = None,
    host: Personality | None = None,
    **scenario: Any,
) -> Scenario:
    """A simulated world: a client that sends `mails` at 1 s through a server with the plugin to the host of `one.test`.

    Give it to the fixture `simulated_world`. Senders are at `senders.test`; `scenario` are other fields of `Scenario`.
    """
    entry = _entry(plugin, settings)
    config = server_config(plugins=PluginsSection(plugins=(entry,)))
    given: dict[str, Any] = {
        "seed": 7,
        "config": config,
        "hosts": {SENDER_ADDRESS: Personality(), WORLD_HOST: host or Personality()},
        "names": {
            SENDER_DOMAIN: name_with_mx("mx.senders.test"),
            "mx.senders.test": Name(addresses=(SENDER_ADDRESS,)),
            "one.test": name_with_mx("mx.one.test"),
            "mx.one.test": Name(addresses=(WORLD_HOST,)),
        },
        "clients": (ClientScript("203.0.113.9", 1.0, mails),),
        "plugins": {entry.name: plugin},
    }
    return Scenario(**{**given, **scenario})


def _entry(
    plugin: type[Plugin],
    settings: Mapping[str, object] | None,
    *,
    deadline: float | None = None,
    on_error: OnError | None = None,
) -> PluginEntry:
    return PluginEntry(
        plugin.__name__.lower(),
        deadline=deadline,
        on_error=None if on_error is None else PluginFailure(on_error.value),
        settings=settings or {},
    )


def _itself(plugin: type[Plugin]) -> type[Plugin]:
    return plugin
