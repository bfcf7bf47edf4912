"""Every way in which a plugin may fail, and what becomes of the mail."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from elemta.mail.envelope import Priority
from elemta.plugins.api import (
    CONTINUE,
    AddHeader,
    Annotate,
    Continue,
    Defer,
    Discard,
    Mail,
    OnError,
    Plugin,
    Quarantine,
    Reject,
    Session,
    SetPriority,
    Stage,
    Verdict,
)
from elemta.plugins.breaker import FAILURES_TO_OPEN, REST_SECONDS
from elemta.plugins.chain import DEADLINE_REST_SECONDS, STUCK_SECONDS
from elemta.plugins.mail import MailInHand
from elemta.plugins.verdicts import SetRoute
from tests.plugins.fakes import SESSION, Bench, a_mail, chain_of

ORDERED: list[str] = []


class Early(Plugin):
    priority = 100

    async def on_data_complete(self, mail: Mail) -> Verdict:
        ORDERED.append("early")
        return Continue([AddHeader("X-Early", "1"), SetPriority(Priority.HIGH)], score=1.5)


class Late(Plugin):
    priority = 0

    async def on_data_complete(self, mail: Mail) -> Verdict:
        ORDERED.append("late")
        return Continue([Annotate("seen", f"{mail.headers.text('X-Early')} {mail.score}")])


class Refusing(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        return Reject("not this one", 554, "5.7.1")


async def ask(bench: Bench, mail: MailInHand | None = None) -> Verdict:
    mail = mail or a_mail()
    return await bench.chain.ask(Stage.DATA_COMPLETE, mail, mail)


async def test_they_are_asked_in_order_and_see_what_others_changed(autojump_clock: object) -> None:
    ORDERED.clear()
    mail = a_mail()
    async with chain_of(Late, Early) as bench:
        assert await ask(bench, mail) == CONTINUE
    assert ORDERED == ["early", "late"]
    assert mail.annotations == {"seen": "1 1.5"}
    assert (mail.priority, mail.score, mail.is_changed) == (Priority.HIGH, 1.5, True)
    assert mail.ledger.cost("early").changes == 2


async def test_the_first_refusal_ends_it(autojump_clock: object) -> None:
    ORDERED.clear()
    async with chain_of(Late, Refusing, Early) as bench:
        assert await ask(bench) == Reject("not this one", 554, "5.7.1")
    assert ORDERED == ["early"]


class Holding(Plugin):
    priority = 75

    async def on_data_complete(self, mail: Mail) -> Verdict:
        return Quarantine("odd", [Annotate("why", "odd")])


async def test_behind_a_quarantine_others_are_asked(autojump_clock: object) -> None:
    async with chain_of(Holding, Refusing) as bench:
        assert await ask(bench) == Reject("not this one", 554, "5.7.1")
    mail = a_mail()
    async with chain_of(Holding, Late) as bench:
        assert isinstance(await ask(bench, mail), Quarantine)
    assert set(mail.annotations) == {"why", "seen"}


async def test_hooks_that_are_not_overridden_are_not_there(autojump_clock: object) -> None:
    async with chain_of(Late) as bench:
        assert bench.chain.has(Stage.DATA_COMPLETE)
        assert not any(bench.chain.has(stage) for stage in Stage if stage is not Stage.DATA_COMPLETE)


# ---- hostile ones --------------------------------------------------------------------------------


class Raising(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        raise RuntimeError("broken\r\nforged line")


class Exiting(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        raise SystemExit(3)


class Own(BaseException):
    pass


class RaisingItsOwn(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        raise Own


class RaisingGroups(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        raise BaseExceptionGroup("many", [ValueError("one"), BaseExceptionGroup("more", [Own(), SystemExit()])])


class RaisingGeneratorExit(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        raise GeneratorExit


class KeepingACancellation(Plugin):
    """Raises, now that nothing is cancelled, what it caught when something was."""

    async def on_data_complete(self, mail: Mail) -> Verdict:
        kept: BaseException | None = None
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                kept = error
                raise
        assert kept is not None
        raise kept


class Hanging(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        await trio.sleep_forever()
        return CONTINUE


class Swallowing(Plugin):
    """Goes on for a while after it was cancelled."""

    async def on_data_complete(self, mail: Mail) -> Verdict:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:  # noqa: ASYNC103  # the mistake that is tried
            with trio.CancelScope(shield=True):
                await trio.sleep(60)
        return Reject("too late")


class RaisingWhenCancelled(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        try:
            await trio.sleep_forever()
        finally:
            raise RuntimeError("in the clean-up")


class AnsweringNone(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        return None  # type: ignore[return-value]  # as people forget


class AnsweringText(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        return "reject"  # type: ignore[return-value]  # as people think


class AnsweringASubclass(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        class Mine(Reject):
            pass

        return Mine("mine")


class AskingForTheImpossible(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        return Continue([AddHeader("X-Ok", "1"), SetRoute("nowhere")])


class WritingAForgedHeader(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        return Continue([AddHeader("X-A", "1\r\nBcc: everybody@example.com")])


class Mutating(Plugin):
    async def on_data_complete(self, mail: Mail) -> Verdict:
        mail.sender = None  # type: ignore[misc]  # read-only
        return CONTINUE


class Forgetting(Plugin):
    def on_data_complete(self, mail: Mail) -> Verdict:  # type: ignore[override]  # no async
        return CONTINUE


AT_ONCE = [
    Raising,
    Exiting,
    RaisingItsOwn,
    RaisingGroups,
    RaisingGeneratorExit,
    KeepingACancellation,
    AnsweringNone,
    AnsweringText,
    AnsweringASubclass,
    AskingForTheImpossible,
    WritingAForgedHeader,
    Mutating,
    Forgetting,
]
LATE = [Hanging, Swallowing, RaisingWhenCancelled]


@pytest.mark.parametrize("on_error", OnError)
@pytest.mark.parametrize("hostile", [*AT_ONCE, *LATE])
async def test_whatever_it_does_becomes_its_policy(
    hostile: type[Plugin], on_error: OnError, autojump_clock: object
) -> None:
    ORDERED.clear()
    mail = a_mail()
    async with chain_of(hostile, Late, on_error=on_error) as bench:
        started = trio.current_time()
        verdict = await ask(bench, mail)
        took = trio.current_time() - started
    (told,) = bench.events("plugin.failed")
    assert (told["plugin"], told["stage"]) == (hostile.__name__.lower(), "data_complete")
    assert not mail.is_changed, "all changes or none"
    match on_error:
        case OnError.ACCEPT:
            assert verdict == CONTINUE
            assert ORDERED == ["late"], "the next one is asked as if it were not there"
        case OnError.DEFER:
            assert isinstance(verdict, Defer)
        case OnError.REJECT:
            assert isinstance(verdict, Reject)
    if hostile in AT_ONCE:
        assert took == 0
    elif hostile is not Swallowing:
        assert 10 <= took <= 10 + DEADLINE_REST_SECONDS
    assert mail.ledger.cost(hostile.__name__.lower()).verdict.startswith("failed: ")


async def test_one_that_does_not_end_is_named(autojump_clock: object) -> None:
    async with chain_of(Swallowing) as bench:
        started = trio.current_time()
        await ask(bench)
        assert trio.current_time() - started >= 70
    (told,) = bench.events("plugin.does_not_end")
    assert told["plugin"] == "swallowing"
    assert STUCK_SECONDS < 60


@pytest.mark.parametrize("hostile", [Hanging, RaisingWhenCancelled])
async def test_our_own_cancellation_passes(hostile: type[Plugin], autojump_clock: object) -> None:
    async with chain_of(hostile, on_error=OnError.REJECT) as bench:
        with trio.move_on_after(1) as scope:
            await ask(bench)
        assert scope.cancelled_caught or hostile is RaisingWhenCancelled


async def test_keyboard_interrupt_passes(autojump_clock: object) -> None:
    class Interrupted(Plugin):
        async def on_data_complete(self, mail: Mail) -> Verdict:
            raise KeyboardInterrupt

    bench = Bench([Interrupted])
    with pytest.raises(KeyboardInterrupt):
        await ask(bench)


# ---- the circuit ---------------------------------------------------------------------------------


class Flaky(Plugin):
    fails = True
    calls = 0

    async def on_data_complete(self, mail: Mail) -> Verdict:
        Flaky.calls += 1
        if Flaky.fails:
            await trio.sleep_forever()
        return CONTINUE


async def test_one_that_keeps_failing_is_left_alone_and_tried_again(autojump_clock: object) -> None:
    Flaky.fails, Flaky.calls = True, 0
    async with chain_of(Flaky, on_error=OnError.DEFER, deadline=3) as bench:
        for _ in range(FAILURES_TO_OPEN):
            assert isinstance(await ask(bench), Defer)
        started = trio.current_time()
        for _ in range(100):
            assert isinstance(await ask(bench), Defer)
        assert trio.current_time() == started, "nobody waits for it any more"
        assert Flaky.calls == FAILURES_TO_OPEN
        Flaky.fails = False
        await trio.sleep(REST_SECONDS)
        assert await ask(bench) == CONTINUE
        assert await ask(bench) == CONTINUE
    (left,) = bench.events("plugin.left_alone")
    assert left["policy"] == "defer"
    assert len(bench.events("plugin.back")) == 1


async def test_quick_failures_switch_nothing_off(autojump_clock: object) -> None:
    """Or five mails that are made to let a filter fail would let everything pass for a while."""
    mail = a_mail()
    async with chain_of(Raising, Late, on_error=OnError.ACCEPT) as bench:
        for _ in range(10 * FAILURES_TO_OPEN):
            await ask(bench, mail)
        assert bench.metrics.registry.get_sample_value("elemta_plugin_failures_total", {"plugin": "raising"}) == 50
    assert not bench.events("plugin.left_alone")


async def test_a_probe_that_the_client_ends_lets_another_through(autojump_clock: object) -> None:
    Flaky.fails, Flaky.calls = True, 0
    async with chain_of(Flaky, on_error=OnError.DEFER, deadline=3) as bench:
        for _ in range(FAILURES_TO_OPEN):
            await ask(bench)
        await trio.sleep(REST_SECONDS)
        with trio.move_on_after(1):
            await ask(bench)
        assert Flaky.calls == FAILURES_TO_OPEN + 1
        Flaky.fails = False
        assert await ask(bench) == CONTINUE


# ---- sessions, and tasks -------------------------------------------------------------------------


class AtConnect(Plugin):
    async def on_connect(self, session: Session) -> Verdict:
        return Discard("no mail yet")


async def test_what_makes_no_sense_at_a_stage_is_a_failure(autojump_clock: object) -> None:
    async with chain_of(AtConnect, on_error=OnError.DEFER) as bench:
        mail = a_mail()
        assert isinstance(await bench.chain.ask(Stage.CONNECT, mail, SESSION), Defer)


async def test_a_blocking_one_is_called_in_a_thread(autojump_clock: object) -> None:
    class Blocking(Plugin):
        blocking = True

        def on_data_complete(self, mail: Mail) -> Verdict:  # type: ignore[override]  # blocking
            return Reject("from a thread")

    async with chain_of(Blocking) as bench:
        assert await ask(bench) == Reject("from a thread")


async def test_many_sessions_are_asked_at_once(autojump_clock: object) -> None:
    class Slow(Plugin):
        async def on_data_complete(self, mail: Mail) -> Verdict:
            await trio.sleep(5)
            return CONTINUE

    async with chain_of(Slow, Hanging) as bench, trio.open_nursery() as nursery:
        started = trio.current_time()
        for _ in range(100):
            nursery.start_soon(ask, bench)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.deadline = started + 16
    assert bench.metrics.plugin_failures.labels(plugin="hanging")._value.get() == 100


async def test_hooks_that_never_wait_are_asked_without_a_scope() -> None:
    """Whatever waits has one: a scope costs more than most hooks that do not."""

    class Plain(Plugin):
        async def on_mail_from(self, mail: Mail) -> Verdict:
            return Reject("at once")

        async def on_rcpt_to(self, mail: Mail, recipient: object) -> Verdict:
            await trio.lowlevel.checkpoint()
            return CONTINUE

        async def on_data_headers(self, mail: Mail) -> Verdict:
            async with trio.open_nursery():
                pass
            return Reject("waited")

        async def on_data_complete(self, mail: Mail) -> Verdict:
            return Reject(",".join([name async for name in Names()]))

    class Names:
        left = 2

        def __aiter__(self) -> "Names":
            return self

        async def __anext__(self) -> str:
            await trio.lowlevel.checkpoint()
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return "a"

    async with chain_of(Plain) as bench:
        waits = {stage.value: bench.chain.seconds[stage] > 0 for stage in Stage if bench.chain.has(stage)}
        assert waits == {"mail_from": False, "rcpt_to": True, "data_headers": True, "data_complete": True}
        mail = a_mail()
        assert await bench.chain.ask(Stage.MAIL_FROM, mail, mail) == Reject("at once")
        assert await bench.chain.ask(Stage.RCPT_TO, mail, mail, None) == CONTINUE
        assert await bench.chain.ask(Stage.DATA_HEADERS, mail, mail) == Reject("waited")
        assert await bench.chain.ask(Stage.DATA_COMPLETE, mail, mail) == Reject("a,a")
