"""The bench that authors of plugins test on: mails, dialogues, worlds."""

import threading
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import pytest
import trio
from attrs import evolve, frozen

from elemta.config.kinds import About, Whole
from elemta.mail.address import Address
from elemta.mail.envelope import Priority, Recipient
from elemta.plugins.api import (
    CONTINUE,
    AddHeader,
    AddRecipient,
    Annotate,
    Continue,
    Defer,
    Delivery,
    Discard,
    Mail,
    OnError,
    Plugin,
    Quarantine,
    Reject,
    RemoveRecipient,
    ReplaceBody,
    Session,
    SetPriority,
    SetRoute,
    SetSender,
    Stage,
    Verdict,
)
from elemta.plugins.loader import PluginsUnusable
from elemta.plugins.verdicts import Change
from elemta.simulation.clients import MailScript
from elemta.simulation.record import Record
from elemta.simulation.resolver import Name
from elemta.simulation.scenario import Scenario
from elemta.storage.records import INLINE_CONTENT_OCTETS
from elemta.testing.plugins import SESSION, MakeBench, PluginBroken, world_of

MAIL = b"Subject: hello\n\nHow are you?\n"
STAGES = ("connect", "helo", "mail_from", "rcpt_to", "data_headers", "data_complete")


def answering(stage: str, verdict: object) -> type[Plugin]:
    """A plugin that answers at one stage."""

    async def hook(self: Plugin, *_: object) -> Any:
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    return type("Answering", (Plugin,), {f"on_{stage}": hook})


class Recording(Plugin):
    """Remembers where it was asked."""

    def __init__(self, host: Any, settings: Any = None) -> None:
        super().__init__(host, settings)
        self.asked: list[str] = []

    async def start(self) -> None:
        self.asked.append("start")

    async def stop(self) -> None:
        self.asked.append("stop")


def _recording(stage: Stage) -> Any:
    async def hook(self: Recording, *_: object) -> Verdict:
        self.asked.append(stage.value)
        return CONTINUE

    return hook


for _stage in Stage:
    setattr(Recording, f"on_{_stage.value}", _recording(_stage))


# ---- single mails --------------------------------------------------------------------------------


async def test_a_mail_meets_every_stage_of_a_session(plugin_bench: MakeBench) -> None:
    async with plugin_bench(Recording) as bench:
        await bench.mail(MAIL, recipients=("max@example.com", "eva@example.com"), session=evolve(SESSION, user="jo"))
        asked = bench.plugin.asked
    assert asked == [
        "start",
        "connect",
        "helo",
        "auth",
        "mail_from",
        "rcpt_to",
        "rcpt_to",
        "data_headers",
        "data_complete",
        "queued",
        "disconnect",
        "stop",
    ]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("verdict", [Reject("no"), Defer("later", 450, "4.7.1")])
async def test_a_refusal_is_the_answer_with_its_stage(
    stage: str,
    verdict: Verdict,
    plugin_bench: MakeBench,
) -> None:
    async with plugin_bench(answering(stage, verdict)) as bench:
        answer = await bench.mail(MAIL)
    assert (answer.verdict, answer.stage) == (verdict, Stage(stage))
    assert answer.cost.verdict == type(verdict).__name__.lower()
    assert bool(answer.refused) is (stage == "rcpt_to")


async def test_behind_a_refusal_nothing_is_asked(plugin_bench: MakeBench) -> None:
    class Strict(Recording):
        async def on_mail_from(self, mail: Mail) -> Verdict:
            return Reject()

    async with plugin_bench(Strict) as bench:
        await bench.mail(MAIL)
        assert bench.plugin.asked == ["start", "connect", "helo", "disconnect"]


async def test_one_recipient_may_be_refused(plugin_bench: MakeBench) -> None:
    class NotEva(Plugin):
        async def on_rcpt_to(self, mail: Mail, recipient: Recipient) -> Verdict:
            return Reject("not her") if recipient.address.local == "eva" else CONTINUE

    async with plugin_bench(NotEva) as bench:
        answer = await bench.mail(MAIL, recipients=("eva@example.com", "max@example.com"))
        nobody = await bench.mail(MAIL, recipients=("eva@example.com",))
    assert (answer.verdict, answer.recipients) == (CONTINUE, ("max@example.com",))
    assert answer.refused == {"eva@example.com": Reject("not her")}
    assert (nobody.verdict, nobody.stage) == (Reject("not her"), Stage.RCPT_TO)


@pytest.mark.parametrize("fate", [Quarantine("odd", [Annotate("why", "odd")]), Discard("unwanted")])
async def test_fates(fate: Verdict, plugin_bench: MakeBench) -> None:
    async with plugin_bench(answering("mail_from", fate)) as bench:
        answer = await bench.mail(MAIL)
    assert (answer.verdict, answer.stage) == (fate, Stage.MAIL_FROM)
    assert answer.annotations == ({"why": "odd"} if isinstance(fate, Quarantine) else {})


CHANGES: Sequence[Change] = (
    AddHeader("X-Seen", "1"),
    ReplaceBody(b"Fine.\r\n"),
    SetSender(None),
    AddRecipient(Recipient(Address("eva", "example.com"))),
    RemoveRecipient(Address("max", "example.com")),
    SetPriority(Priority.LOW),
    SetRoute("backup"),
    Annotate("tag", "1"),
)


async def test_changes_are_in_the_answer(plugin_bench: MakeBench) -> None:
    async with plugin_bench(answering("data_complete", Continue(CHANGES, score=2.5))) as bench:
        answer = await bench.mail(MAIL, sender="jo@example.org")
        again = await bench.mail(MAIL)
    assert answer.verdict == CONTINUE
    assert answer.content == b"X-Seen: 1\r\nSubject: hello\r\n\r\nFine.\r\n"
    assert (answer.sender, answer.recipients) == ("", ("eva@example.com",))
    assert (answer.priority, answer.route, answer.score) == (Priority.LOW, "backup", 2.5)
    assert answer.annotations == {"tag": "1"}
    assert (answer.cost.changes, answer.cost.score) == (len(CHANGES), 2.5)
    assert again.score == 2.5, "each mail has a session of its own"


async def test_time_is_virtual_and_counted(plugin_bench: MakeBench) -> None:
    class Slow(Plugin):
        async def on_data_complete(self, mail: Mail) -> Verdict:
            await trio.sleep(20)
            return CONTINUE

    async with plugin_bench(Slow) as bench:
        answer = await bench.mail(MAIL)
    assert answer.cost.seconds == 20
    assert trio.current_time() >= 20


# ---- failures ------------------------------------------------------------------------------------


async def test_a_failure_fails_the_test_with_its_cause(plugin_bench: MakeBench) -> None:
    error = RuntimeError("broken")
    async with plugin_bench(answering("helo", error)) as bench:
        with pytest.raises(PluginBroken, match="the plugin answering raised at helo: RuntimeError: broken") as failure:
            await bench.mail(MAIL)
        assert failure.value.__cause__ is error
        with pytest.raises(PluginBroken):
            await bench.dialogue("QUIT")
        bench.forgive()


@pytest.mark.parametrize("bad", ["reject", None, Discard("too early")])
async def test_so_does_an_answer_that_is_none(bad: object, plugin_bench: MakeBench) -> None:
    async with plugin_bench(answering("connect", bad)) as bench:
        with pytest.raises(PluginBroken, match="at connect"):
            await bench.mail(MAIL)
        bench.forgive()


async def test_a_task_that_raises_fails_the_test_at_its_end(plugin_bench: MakeBench) -> None:
    class Tasking(Plugin):
        async def start(self) -> None:
            self.host.start_soon(self.later)

        async def later(self) -> None:
            await trio.sleep(5)
            raise RuntimeError("later")

    with pytest.raises(PluginBroken, match="raised in a task"):
        async with plugin_bench(Tasking):
            await trio.sleep(6)


@pytest.mark.parametrize(("policy", "verdict"), [(OnError.ACCEPT, Continue), (OnError.REJECT, Reject)])
async def test_with_a_policy_it_is_contained(
    policy: OnError,
    verdict: type,
    plugin_bench: MakeBench,
) -> None:
    async with plugin_bench(answering("data_complete", ValueError("x")), on_error=policy) as bench:
        answer = await bench.mail(MAIL)
    assert isinstance(answer.verdict, verdict)
    assert answer.cost.verdict == "failed: raised"


async def test_a_deadline_can_be_tried(plugin_bench: MakeBench) -> None:
    class Hanging(Plugin):
        async def on_data_complete(self, mail: Mail) -> Verdict:
            await trio.sleep_forever()
            return CONTINUE

    async with plugin_bench(Hanging, on_error=OnError.DEFER, deadline=3) as bench:
        answer = await bench.mail(MAIL)
    assert isinstance(answer.verdict, Defer)
    assert answer.cost.verdict == "failed: took too long"
    assert answer.cost.seconds >= 3, "what it took is counted all the same"


@frozen
class Settings:
    limit: Annotated[int, Whole("mails", 1, 9), About("How many.")] = 3


class Counting(Plugin):
    settings_class = Settings

    async def on_mail_from(self, mail: Mail) -> Verdict:
        count = await self.host.shared.add(mail.session.client.host, seconds=60)
        names = await self.host.resolver.pointers(mail.session.client.host)
        return Defer("too many") if count > self.settings.limit else Continue([Annotate("from", names[0])])


async def test_settings_state_and_dns(plugin_bench: MakeBench) -> None:
    names = {"1.2.0.192.in-addr.arpa": Name(pointers=("client.example.org",))}
    async with plugin_bench(Counting, settings={"limit": 2}, names=names) as bench:
        answers = [await bench.mail(MAIL) for _ in range(3)]
        assert [type(one.verdict) for one in answers] == [Continue, Continue, Defer]
        assert answers[0].annotations == {"from": "client.example.org"}
        await trio.sleep(61)
        assert (await bench.mail(MAIL)).verdict == CONTINUE


async def test_settings_are_checked_as_the_servers_are(plugin_bench: MakeBench) -> None:
    with pytest.raises(PluginsUnusable, match=r"settings\.limit: expected a whole number of mails from 1 to 9"):
        async with plugin_bench(Counting, settings={"limit": 0}):
            pass


async def test_what_it_logs_can_be_read(plugin_bench: MakeBench) -> None:
    class Logging(Plugin):
        async def start(self) -> None:
            self.host.log.info("hello", number=1)

    async with plugin_bench(Logging) as bench:
        (told,) = bench.events("hello")
    assert (told["plugin"], told["number"]) == ("logging", 1)


class Blocking(Plugin):
    """Takes real time, asks Trio for what it needs, or hangs until it is let go."""

    blocking = True
    let_go: ClassVar[threading.Event]

    def on_data_complete(self, mail: Mail) -> Verdict:  # type: ignore[override]  # blocking
        start = trio.from_thread.run(mail.content.read, 0, 14)
        threading.Event().wait(0.05)
        if start == b"Subject: hangs":
            self.let_go.wait(60)
        return Reject(start.decode())


async def test_a_blocking_plugin_may_ask_trio(plugin_bench: MakeBench) -> None:
    async with plugin_bench(Blocking, deadline=1000) as bench:
        answer = await bench.mail(MAIL)
    assert answer.verdict == Reject("Subject: hello")
    assert trio.current_time() < 1000, "the clock has waited for the thread"


@pytest.mark.slow
async def test_a_blocking_plugin_that_hangs_is_left_to_itself(plugin_bench: MakeBench) -> None:
    Blocking.let_go = threading.Event()
    try:
        async with plugin_bench(Blocking, deadline=20, on_error=OnError.DEFER) as bench:
            answer = await bench.mail(b"Subject: hangs\n\n")
        assert isinstance(answer.verdict, Defer)
        assert 20 <= answer.cost.seconds < 21
    finally:
        Blocking.let_go.set()


# ---- dialogues -----------------------------------------------------------------------------------

DIALOGUE = (
    "EHLO client.example.org",
    "MAIL FROM:<jo@example.org>",
    "RCPT TO:<max@example.com>",
    "DATA",
    "Subject: hello\n\nHow are you?\n.",
    "QUIT",
)


async def test_a_dialogue_line_by_line(plugin_bench: MakeBench) -> None:
    async with plugin_bench(answering("data_complete", Continue([Annotate("tag", "1")]))) as bench:
        replies = await bench.dialogue(*DIALOGUE)
        assert [reply[:3] for reply in replies] == ["220", "250", "250", "250", "354", "250", "221"]
        assert "\n250" in replies[1], "EHLO has many lines"
        (mail,) = bench.submitted
        assert mail.annotations["tag"] == "1"
        assert mail.content is not None
        assert mail.content.endswith(b"\r\nSubject: hello\r\n\r\nHow are you?\r\n")
        await bench.dialogue(*DIALOGUE)
        assert len(bench.submitted) == 2


@pytest.mark.parametrize(
    ("stage", "replies"),
    [
        ("connect", ["554", "503", "503", "503", "503", "221"]),
        ("mail_from", ["220", "250", "550", "503", "503", "221"]),
    ],
)
async def test_refusals_in_dialogues(stage: str, replies: list[str], plugin_bench: MakeBench) -> None:
    async with plugin_bench(answering(stage, Reject("no"))) as bench:
        heard = await bench.dialogue(*DIALOGUE)
    assert [reply[:3] for reply in heard] == replies
    assert bench.submitted == []


async def test_lines_may_be_sent_at_once(plugin_bench: MakeBench) -> None:
    async with plugin_bench(answering("rcpt_to", Defer("later"))) as bench:
        heard = await bench.dialogue(DIALOGUE[0], "\n".join(DIALOGUE[1:4]), "QUIT", "NOOP")
    assert [reply[:3] for reply in heard] == ["220", "250", "250", "451", "554", "221", ""]


async def test_a_client_may_be_any(plugin_bench: MakeBench) -> None:
    class Looking(Plugin):
        async def on_rcpt_to(self, mail: Mail, recipient: Recipient) -> Verdict:
            return Defer(f"{mail.session.client.host} {mail.session.may_relay}")

    to_others = ("HELO c", "MAIL FROM:<>", "RCPT TO:<eva@example.net>")
    async with plugin_bench(Looking) as bench:
        assert (await bench.dialogue(*to_others, client="127.0.0.1"))[-1] == "451 4.7.1 127.0.0.1 True"
        assert (await bench.dialogue(*to_others, client="203.0.113.5"))[-1].startswith("55")


async def test_large_mails_go_through_the_door(plugin_bench: MakeBench) -> None:
    body = b"x" * 70 + b"\r\n"
    large = b"Subject: large\r\n\r\n" + body * (2 * INLINE_CONTENT_OCTETS // len(body)) + b"."
    async with plugin_bench(answering("data_complete", Continue([AddHeader("X-Seen", b"1")]))) as bench:
        replies = await bench.dialogue(*DIALOGUE[:4], large)
    assert replies[-1].startswith("250")
    assert bench.submitted[0].content is None


async def test_what_a_session_ends_with_is_awaited(plugin_bench: MakeBench) -> None:
    class Slow(Plugin):
        ended = False

        async def on_disconnect(self, session: Session) -> None:
            await trio.sleep(3)
            self.ended = True

    async with plugin_bench(Slow) as bench:
        await bench.dialogue("QUIT")
        assert bench.plugin.ended


# ---- worlds --------------------------------------------------------------------------------------

MakeWorld = Callable[[Scenario], Record]


def mail(tag: str, domain: str = "one.test") -> MailScript:
    return MailScript(tag, f"{tag}@senders.test", (f"ok-{tag}@{domain}",))


class Tagging(Plugin):
    settings_class = Settings

    async def on_data_complete(self, mail: Mail) -> Verdict:
        if mail.sender is not None and mail.sender.local == "bad":
            return Reject("not from you")
        return Continue([AddHeader("X-Limit", str(self.settings.limit).encode()), Annotate("seen", "yes")])

    async def on_pre_delivery(self, delivery: Delivery) -> Verdict:
        return Defer("not yet") if delivery.attempts == 0 else CONTINUE


def test_a_world_with_a_plugin(simulated_world: MakeWorld) -> None:
    record = simulated_world(world_of(Tagging, mail("good"), mail("bad"), settings={"limit": 7}))
    (kept,) = [one for one in record.kept if one.host]
    assert kept.tag == "good"
    assert b"X-Limit: 7\r\n" in kept.content
    assert kept.at > 30, "it was put off once"
    assert next(one.reply for one in record.submitted if one.tag == "bad").endswith("not from you")
