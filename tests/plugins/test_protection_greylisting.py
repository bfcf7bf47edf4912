"""Greylisting over virtual days, exact to the second."""

from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from elemta.net.base import Endpoint
from elemta.plugins.api import CONTINUE, Verdict
from elemta.plugins.protection import greylist
from elemta.plugins.protection.greylist import Client, Rules, Triplet, rule
from elemta.plugins.protection.greylisting import MAX_SWAPS, MOST_SECONDS, Greylisting, GreylistingSettings
from elemta.plugins.protection.shared import LOG_SECONDS, REST_SECONDS, SHARED_SECONDS
from tests.plugins.protection_world import World, a_mail, a_session, reply_of, to, word_of

Clock = trio.testing.MockClock
HOUR = 3600
DAY = 24 * HOUR


class Grey:
    """The plugin of one world."""

    def __init__(self, world: World | None = None, **settings: Any) -> None:
        self.world = world or World()
        self.plugin = Greylisting(self.world.host(), GreylistingSettings(**settings))

    async def __call__(
        self, sender: str = "s@sender.example", recipient: str = "r@here.example", **session: Any
    ) -> Verdict:
        """One recipient of one mail in a session of its own."""
        return await self.plugin.on_rcpt_to(a_mail(a_session(**session), sender), to(recipient))


def refused(seconds: int) -> str:
    return f"450 4.7.1 greylisted, please try again in {seconds} second{'s' * (seconds > 1)}"


async def test_a_stranger_passes_after_five_minutes_to_the_second(autojump_clock: Clock) -> None:
    grey = Grey()
    assert reply_of(await grey()) == refused(300)
    await trio.sleep(299)
    assert reply_of(await grey()) == refused(1)
    await trio.sleep(1)
    assert word_of(await grey()) == "came again after 300 seconds"
    assert await grey() is CONTINUE  # not news any more


async def test_coming_early_does_not_prolong_the_wait(autojump_clock: Clock) -> None:
    grey = Grey(delay=60)
    for left in range(60, 0, -1):
        assert reply_of(await grey()) == refused(left)
        await trio.sleep(1)
    assert word_of(await grey())


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        ({"client": "192.0.2.200"}, True),  # the same /24
        ({"client": "192.0.3.1"}, False),
        ({"sender": "S@Sender.example"}, True),
        ({"sender": "t@sender.example"}, False),
        ({"sender": ""}, False),
        ({"recipient": "R@here.example"}, True),
        ({"recipient": "q@here.example"}, False),
    ],
)
async def test_a_triplet_is_network_sender_and_recipient(
    other: dict[str, str], is_same: bool, autojump_clock: Clock
) -> None:
    grey = Grey()
    await grey()
    await trio.sleep(300)
    assert bool(reply_of(await grey(**other))) is not is_same


async def test_parts_of_a_triplet_do_not_run_into_each_other(autojump_clock: Clock) -> None:
    grey = Grey()
    await grey(sender="a@b", recipient="c|d@here.example")
    await trio.sleep(300)
    assert reply_of(await grey(sender="a@b|c", recipient="d@here.example"))


@pytest.mark.parametrize(("hours", "passes"), [(48 - 0.001, True), (48, False)])
async def test_who_comes_too_late_begins_anew(hours: float, passes: bool, autojump_clock: Clock) -> None:
    grey = Grey()
    await grey()
    await trio.sleep(hours * 3600)
    assert (reply_of(await grey()) == "") is passes


@pytest.mark.parametrize("delay", [600, 601])
def test_settings_by_which_nobody_would_ever_pass(delay: float) -> None:
    with pytest.raises(ValueError, match="retry_window has to be longer than delay"):
        Grey(delay=delay, retry_window=600)


@pytest.mark.parametrize("name", ["retry_window", "lifetime", "client_lifetime"])
async def test_the_longest_that_anything_is_remembered(name: str, autojump_clock: Clock) -> None:
    longest: dict[str, Any] = {name: MOST_SECONDS}
    grey = Grey(delay=60, **longest)
    await grey()
    await trio.sleep(60)
    assert reply_of(await grey()) == ""  # the store takes it
    assert await grey() is CONTINUE
    with pytest.raises(ValueError, match="nothing is remembered for longer than 3650 days"):
        Grey(**{name: longest[name] + 1})


async def test_a_triplet_is_remembered_as_long_as_it_is_used(autojump_clock: Clock) -> None:
    """A mail every 34 days for three years passes; after a pause of more than 36 days it is a stranger's again."""
    grey = Grey(client_passes=0)
    await grey()
    await trio.sleep(300)
    await grey()
    for _ in range(33):
        await trio.sleep(34 * DAY)
        assert await grey() is CONTINUE
    await trio.sleep(36 * DAY)
    assert reply_of(await grey()) == refused(300)


async def test_a_client_is_known_after_five_passes(autojump_clock: Clock) -> None:
    grey = Grey()
    for number in range(5):
        assert reply_of(await grey(sender=f"{number}@sender.example"))
    for number in range(4):
        await trio.sleep(HOUR)
        assert reply_of(await grey(sender=f"{number}@sender.example")) == ""
    assert reply_of(await grey(sender="new@sender.example"))
    await trio.sleep(HOUR)
    assert reply_of(await grey(sender="4@sender.example")) == ""
    assert await grey(sender="newer@sender.example") is CONTINUE
    assert await grey(sender="newest@sender.example", client="192.0.2.99") is CONTINUE
    assert reply_of(await grey(client="192.0.3.1"))
    for _ in range(10):  # for as long as it is seen
        await trio.sleep(34 * DAY)
        assert await grey(sender="one@sender.example") is CONTINUE
    await trio.sleep(36 * DAY)
    assert reply_of(await grey(sender="newest@sender.example"))


async def test_one_mail_to_many_recipients_is_one_pass(autojump_clock: Clock) -> None:
    """What comes again once, whatever it is, makes no network known; what does so for hours does."""
    grey = Grey(client_passes=2)
    for _ in range(2):
        for number in range(50):
            await grey(recipient=f"{number}@here.example", sender=f"{number}@sender.example")
        await trio.sleep(HOUR - 1)
    assert reply_of(await grey(sender="new@sender.example"))
    await trio.sleep(HOUR)
    assert reply_of(await grey(sender="new@sender.example")) == ""
    assert await grey(sender="newer@sender.example") is CONTINUE


async def test_a_clock_that_is_set_back_lets_passes_count(autojump_clock: Clock) -> None:
    grey = Grey(client_passes=2)
    await grey(sender="0@sender.example")
    await trio.sleep(300)
    assert reply_of(await grey(sender="0@sender.example")) == ""
    grey.world.clock.step(-10 * DAY)
    await grey(sender="1@sender.example")
    await trio.sleep(300)
    assert reply_of(await grey(sender="1@sender.example")) == ""
    assert await grey(sender="2@sender.example") is CONTINUE


async def test_a_flood_of_strangers_makes_nobody_a_stranger_again(autojump_clock: Clock) -> None:
    """Beyond what the store holds go those that end soonest: not who has passed."""
    grey = Grey(World(entries=50), client_passes=1)
    for client in ("192.0.2.1", "198.51.100.1"):
        await grey(client=client)
    await trio.sleep(300)
    assert reply_of(await grey()) == ""
    for number in range(500):
        assert reply_of(await grey(sender=f"{number}@sender.example", client="203.0.113.9"))
    assert await grey(sender="new@sender.example") is CONTINUE
    assert await grey() is CONTINUE
    assert reply_of(await grey(client="198.51.100.1")) == refused(300)  # who had not passed begins anew


async def test_one_triplet_that_comes_often_makes_no_client_known(autojump_clock: Clock) -> None:
    grey = Grey()
    await grey()
    await trio.sleep(300)
    for _ in range(20):
        assert reply_of(await grey()) == ""
    assert reply_of(await grey(sender="other@sender.example"))


async def test_a_session_asks_once_whether_its_client_is_known(autojump_clock: Clock) -> None:
    grey = Grey()
    mail = a_mail()
    for number in range(10):
        await grey.plugin.on_rcpt_to(mail, to(f"{number}@here.example"))
    assert grey.world.shared.calls == {"get": 11, "swap": 10}


@pytest.mark.parametrize(
    "session",
    [
        {"user": "bob"},
        {"may_relay": True},
        {"client": "127.0.0.1"},
        {"client": "::1"},
        {"client": "203.0.113.9"},
    ],
)
async def test_who_is_never_put_off(session: dict[str, Any], autojump_clock: Clock) -> None:
    grey = Grey(whitelist_ips=("127.0.0.1", "::1", "203.0.113.0/24"))
    assert await grey(**session) is CONTINUE
    assert not grey.world.shared.calls


async def test_a_unix_socket_is_never_put_off(autojump_clock: Clock) -> None:
    grey = Grey()
    session = a_session()
    mail = a_mail(type(session)("s", Endpoint("/run/x"), Endpoint("/run/x"), "lmtp"))
    assert await grey.plugin.on_rcpt_to(mail, to()) is CONTINUE


async def test_recipients_who_wait_for_nobody(autojump_clock: Clock) -> None:
    grey = Grey(whitelist_recipients=("here.example",))
    for recipient in ("r@here.example", "r@sub.here.example"):
        assert await grey(recipient=recipient) is CONTINUE
    for recipient in ("r@there.example", "r@nothere.example"):
        assert reply_of(await grey(recipient=recipient))


async def test_nodes_remember_together(autojump_clock: Clock) -> None:
    world = World()
    one, two = Grey(world), Grey(world)
    await one()
    await trio.sleep(300)
    assert reply_of(await two()) == ""


async def test_sessions_that_come_at_once_are_one_triplet(autojump_clock: Clock) -> None:
    grey = Grey()
    replies: list[str] = []

    async def come() -> None:
        replies.append(reply_of(await grey()))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(come)
    assert replies == [refused(300)] * 20
    await trio.sleep(300)
    assert reply_of(await grey()) == ""


async def test_who_is_never_the_first_to_write_waits(autojump_clock: Clock) -> None:
    grey = Grey()
    grey.world.shared.lost_swaps = MAX_SWAPS
    assert reply_of(await grey()) == refused(300)
    assert reply_of(await grey()) == refused(300)
    assert grey.world.shared.calls["swap"] == MAX_SWAPS + 1


async def test_while_the_store_is_away_nobody_is_put_off(autojump_clock: Clock) -> None:
    grey = Grey()
    grey.world.shared.is_away = True
    for _ in range(3):
        assert await grey() is CONTINUE
    assert len(grey.world.events("plugin.shared_away")) == 1
    await trio.sleep(LOG_SECONDS)
    await grey()
    assert len(grey.world.events("plugin.shared_away")) == 2
    grey.world.shared.is_away = False
    await trio.sleep(REST_SECONDS)
    assert reply_of(await grey())


async def test_a_store_that_hangs_is_waited_for_once_a_rest(autojump_clock: Clock) -> None:
    """A mail to a hundred recipients waits for it once, not a hundred times."""
    grey, mail = Grey(), a_mail()
    grey.world.shared.hangs_seconds = 1000.0
    begin = trio.current_time()
    for number in range(100):
        assert await grey.plugin.on_rcpt_to(mail, to(f"{number}@here.example")) is CONTINUE
    assert trio.current_time() - begin == SHARED_SECONDS
    assert len(grey.world.events("plugin.shared_away")) == 1


async def test_a_dry_run_only_reports(autojump_clock: Clock) -> None:
    grey = Grey(dry_run=True)
    assert word_of(await grey()) == f"would answer {refused(300)}"
    (event,) = grey.world.events("plugin.would_refuse")
    assert event["client"] == "192.0.2.1"
    await trio.sleep(300)
    assert word_of(await grey()) == "came again after 300 seconds"


async def test_a_clock_that_is_set_back_makes_nobody_wait_longer(autojump_clock: Clock) -> None:
    grey = Grey()
    await grey()
    grey.world.clock.step(-3600)
    assert reply_of(await grey()) == refused(300)
    await trio.sleep(300)
    assert reply_of(await grey()) == ""


# ---- the function of time ------------------------------------------------------------------------

RULES = Rules(delay=300, retry_window=1000, lifetime=5000, client_passes=2, client_lifetime=5000)


@given(st.lists(st.integers(0, 2000), max_size=40))
def test_nobody_passes_before_the_delay(pauses: list[int]) -> None:
    """Whoever passes came first at least the delay ago; whoever is told to wait passes when they do so."""
    known: Triplet | None = None
    now, first_seen = 0, []
    for pause in pauses:
        now += pause
        first_seen.append(now)
        ruling = rule(known, now, rules=RULES)
        known = ruling.keep or known
        assert known is not None
        if ruling.wait is None:
            assert now - first_seen[0] >= RULES.delay
        else:
            assert 0 < ruling.wait <= RULES.delay
            assert rule(known, now + ruling.wait, rules=RULES).wait is None
            assert rule(known, now + ruling.wait - 1, rules=RULES).wait == 1


@given(st.integers(0, 2**60), st.integers(0, 2**60), st.booleans())
def test_records_are_kept(first: int, noted: int, passed: bool) -> None:
    assert greylist.load_triplet(greylist.dump(Triplet(first, noted, passed))) == Triplet(first, noted, passed)
    assert greylist.load_client(greylist.dump(Client(first, noted))) == Client(first, noted)


@given(st.none() | st.binary(max_size=40))
def test_what_is_no_record_is_none(kept: bytes | None) -> None:
    for load in (greylist.load_triplet, greylist.load_client):
        found: Triplet | Client | None = load(kept)
        assert found is None or load(greylist.dump(found)) == found


def test_without_passes_no_client_is_ever_known() -> None:
    rules = Rules(300, 1000, 5000, client_passes=0, client_lifetime=5000)
    assert not greylist.is_known(Client(1000, 0), 0, rules=rules)
