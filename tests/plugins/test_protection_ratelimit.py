"""Rate limits in virtual time: exact over hours, over nodes, with the store away."""

import random
from typing import Any

import pytest
import trio
import trio.testing

from elemta.config.protection import (
    DomainRatesSection,
    NetworkRatesSection,
    RateLimiterSection,
    SenderRatesSection,
    UserRatesSection,
)
from elemta.plugins.api import CONTINUE
from elemta.plugins.mail import MailInHand
from elemta.plugins.protection.counters import MAX_SWAPS
from elemta.plugins.protection.limits import MAX_KEY_OCTETS, bounded_key
from elemta.plugins.protection.ratelimit import RateLimit
from elemta.plugins.protection.shared import LOG_SECONDS, REST_SECONDS, SHARED_SECONDS
from elemta.simulation.resolver import Name
from tests.plugins.protection_world import World, a_mail, a_session, reply_of, to, with_content, word_of

Clock = trio.testing.MockClock

_NONE: dict[str, Any] = {
    "connection_rate_per_minute": None,
    "max_messages_per_minute": None,
    "max_messages_per_hour": None,
    "max_recipients_per_hour": None,
    "per_network": NetworkRatesSection(None, None, None, None, None),
    "per_user": UserRatesSection(None, None, None, None),
}


def limiter(world: World, **keys: Any) -> RateLimit:
    """A plugin with these limits and no others."""
    return RateLimit(world.host(), RateLimiterSection(**(_NONE | keys)))


TOO_MANY = "450 4.7.1 too many mails from your address, try again in 1 second"


async def mails(plugin: RateLimit, count: int, **options: Any) -> list[str]:
    """What is answered to so many mails of one session."""
    session = a_session(**options)
    await plugin.on_connect(session)
    return [reply_of(await plugin.on_mail_from(a_mail(session))) for _ in range(count)]


async def test_connections_of_an_address(autojump_clock: Clock) -> None:
    plugin = limiter(World(), connection_rate_per_minute=60, connection_burst_size=3)
    replies = [reply_of(await plugin.on_connect(a_session())) for _ in range(5)]
    refused = "421 4.7.1 too many connections from your address, try again in 1 second"
    assert replies == ["", "", "", refused, refused]
    assert await plugin.on_connect(a_session("192.0.2.2")) is CONTINUE
    await trio.sleep(1)
    assert await plugin.on_connect(a_session()) is CONTINUE
    assert reply_of(await plugin.on_connect(a_session())) == refused


@pytest.mark.parametrize(
    ("one", "other", "far"),
    [("192.0.2.1", "192.0.2.9", "192.0.3.1"), ("2001:db8::1", "2001:db8::f:9", "2001:db8:1::1")],
)
async def test_connections_of_a_network(one: str, other: str, far: str, autojump_clock: Clock) -> None:
    plugin = limiter(World(), per_network=NetworkRatesSection(2, None, None, None, None))
    assert await plugin.on_connect(a_session(one)) is CONTINUE
    assert await plugin.on_connect(a_session(other)) is CONTINUE
    refused = "421 4.7.1 too many connections from your network, try again in 30 seconds"
    assert reply_of(await plugin.on_connect(a_session(one))) == refused
    assert await plugin.on_connect(a_session(far)) is CONTINUE


async def test_who_waits_as_long_as_was_said_passes(autojump_clock: Clock) -> None:
    """Over two virtual days: at the second that was named, and not one second before."""
    begin = trio.current_time()
    plugin = limiter(World(), max_messages_per_hour=8)
    assert await mails(plugin, 8) == [""] * 8
    for _ in range(384):
        assert await mails(plugin, 1) == ["450 4.7.1 too many mails from your address, try again in 450 seconds"]
        await trio.sleep(449)
        assert (await mails(plugin, 1))[0].endswith("try again in 1 second")
        await trio.sleep(1)
        assert await mails(plugin, 1) == [""]
    assert trio.current_time() - begin == 2 * 86_400


async def test_minute_and_hour_count_both(autojump_clock: Clock) -> None:
    plugin = limiter(World(), max_messages_per_minute=2, max_messages_per_hour=3)
    assert [bool(reply) for reply in await mails(plugin, 3)] == [False, False, True]
    await trio.sleep(60)
    assert [bool(reply) for reply in await mails(plugin, 2)] == [False, True]
    await trio.sleep(60)
    (refused,) = await mails(plugin, 1)
    assert refused.endswith("try again in 1080 seconds")  # 20 minutes a mail, two have passed


@pytest.mark.parametrize("away", [False, True])
async def test_what_is_refused_by_one_limit_is_not_counted_by_the_others(away: bool, autojump_clock: Clock) -> None:
    world = World()
    world.shared.is_away = away
    plugin = limiter(world, max_messages_per_hour=1, per_sender=SenderRatesSection(messages_per_hour=2))
    assert [bool(reply) for reply in await mails(plugin, 5)] == [False, True, True, True, True]
    assert await mails(plugin, 1, client="192.0.2.2") == [""]
    (refused,) = await mails(plugin, 1, client="192.0.2.3")
    assert "too many mails from this sender" in refused
    # The third address was not charged for what the sender's limit refused.
    session = a_session("192.0.2.3")
    assert await plugin.on_mail_from(a_mail(session, "other@sender.example")) == CONTINUE


async def test_a_user_is_counted_from_everywhere_and_not_by_address(autojump_clock: Clock) -> None:
    plugin = limiter(World(), max_messages_per_hour=1, per_user=UserRatesSection(None, 2, None, None))
    assert await mails(plugin, 1, user="Bob", client="192.0.2.1") == [""]
    assert await mails(plugin, 1, user="bob", client="192.0.2.1") == [""]
    (refused,) = await mails(plugin, 1, user="bob", client="198.51.100.7")
    assert refused == "450 4.7.1 too many mails from this user, try again in 1800 seconds"
    assert await mails(plugin, 1, client="192.0.2.1") == [""]


async def test_recipients_of_an_address_and_to_a_domain(autojump_clock: Clock) -> None:
    plugin = limiter(
        World(), max_recipients_per_hour=4, per_recipient_domain=DomainRatesSection(recipients_per_minute=2)
    )
    mail = a_mail()
    replies = [reply_of(await plugin.on_rcpt_to(mail, to(f"{n}@one.example"))) for n in range(3)]
    assert replies == ["", "", "450 4.7.1 too many recipients to this domain, try again in 30 seconds"]
    replies = [reply_of(await plugin.on_rcpt_to(mail, to(f"{n}@two{n}.example"))) for n in range(3)]
    assert replies == ["", "", "450 4.7.1 too many recipients from your address, try again in 900 seconds"]


async def test_octets_are_counted_when_they_came_and_looked_at_before(autojump_clock: Clock) -> None:
    plugin = limiter(World(), max_data_per_hour=3_600_000, volume_burst_size=100_000)
    session = a_session()
    for _ in range(2):
        mail = a_mail(session, declared_size=50_000)
        assert await plugin.on_mail_from(mail) == CONTINUE
        assert await plugin.on_data_complete(with_content(mail, 50_000)) == CONTINUE
    refused = "450 4.7.1 too many octets from your address, try again in 50 seconds"
    for _ in range(3):  # looking costs nothing
        assert reply_of(await plugin.on_mail_from(a_mail(session, declared_size=50_000))) == refused
    mail = a_mail(session)
    assert await plugin.on_mail_from(mail) == CONTINUE  # it did not say
    assert reply_of(await plugin.on_data_complete(with_content(mail, 50_000))) == refused
    await trio.sleep(100)
    mail = a_mail(session, declared_size=10**9)  # more than ever fits: it takes all there is
    assert await plugin.on_mail_from(mail) == CONTINUE
    assert await plugin.on_data_complete(with_content(mail, 10**9)) == CONTINUE
    assert reply_of(await plugin.on_data_complete(with_content(a_mail(session), 1)))


async def test_the_null_sender_has_no_limit_of_its_own(autojump_clock: Clock) -> None:
    plugin = limiter(World(), per_sender=SenderRatesSection(messages_per_hour=1))
    session = a_session()
    for _ in range(3):
        assert await plugin.on_mail_from(a_mail(session, "")) == CONTINUE


# ---- lists ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "198.51.100.77", "::ffff:198.51.100.77", "2001:db8::5"])
async def test_listed_addresses_are_not_counted(client: str, autojump_clock: Clock) -> None:
    listed = ("127.0.0.1", "::1", "198.51.100.0/24", "2001:db8::/64")
    world = World()
    plugin = limiter(world, connection_rate_per_minute=1, max_messages_per_hour=1, whitelist_ips=listed)
    for _ in range(3):
        assert await mails(plugin, 3, client=client) == [""] * 3
    assert not world.shared.calls


async def test_listed_addresses_are_not_counted_where_nobody_asked_when_they_connected(autojump_clock: Clock) -> None:
    """As behind a rest of the plugin."""
    plugin, session = limiter(World(), max_messages_per_hour=1, whitelist_ips=("192.0.2.1",)), a_session()
    for _ in range(3):
        assert await plugin.on_mail_from(a_mail(session)) is CONTINUE
        assert await plugin.on_rcpt_to(a_mail(session), to()) is CONTINUE


async def test_banned_addresses_may_not_connect(autojump_clock: Clock) -> None:
    plugin = limiter(World(), blacklist_ips=("192.0.2.0/28", "2001:db8::/32"), whitelist_ips=("192.0.2.3",))
    refused = "554 5.7.1 your address is not welcome here"
    assert reply_of(await plugin.on_connect(a_session("192.0.2.1"))) == refused
    assert reply_of(await plugin.on_connect(a_session("2001:db8:9::1"))) == refused
    assert await plugin.on_connect(a_session("192.0.2.16")) is CONTINUE
    assert await plugin.on_connect(a_session("192.0.2.3")) is CONTINUE


async def test_banned_domains_may_not_send(autojump_clock: Clock) -> None:
    plugin = limiter(World(), blacklist_domains=("bad.example",))
    for sender in ("a@bad.example", "a@b.bad.example"):
        domain = sender.partition("@")[2]
        refused = f"550 5.7.1 senders of {domain} are not welcome here"
        assert reply_of(await plugin.on_mail_from(a_mail(sender=sender))) == refused
    for sender in ("a@notbad.example", ""):
        assert await plugin.on_mail_from(a_mail(sender=sender)) == CONTINUE


async def test_a_domain_is_free_by_its_clients_true_names_alone(autojump_clock: Clock) -> None:
    names = {
        "1.2.0.192.in-addr.arpa": Name(pointers=("mx.good.example",)),
        "2.2.0.192.in-addr.arpa": Name(pointers=("mx.good.example",)),
        "3.2.0.192.in-addr.arpa": Name(pointers=("mx.notgood.example",)),
        "mx.good.example": Name(addresses=("192.0.2.1",)),
        "mx.notgood.example": Name(addresses=("192.0.2.3",)),
    }
    plugin = limiter(World(names), max_messages_per_hour=1, whitelist_domains=("good.example",))
    assert await mails(plugin, 3, client="192.0.2.1") == [""] * 3
    for client in ("192.0.2.2", "192.0.2.3", "192.0.2.4"):  # an untrue name, a like one, none
        assert [bool(reply) for reply in await mails(plugin, 2, client=client)] == [False, True]


# ---- over nodes, and without them ----------------------------------------------------------------


async def test_nodes_count_together(autojump_clock: Clock) -> None:
    world = World()
    nodes = [limiter(world, max_messages_per_hour=10) for _ in range(4)]
    passed: list[str] = []

    async def send(node: RateLimit) -> None:
        passed.extend(await mails(node, 1))

    async with trio.open_nursery() as nursery:
        for index in range(40):
            nursery.start_soon(send, nodes[index % 4])
    assert passed.count("") == 10
    assert len(passed) == 40


async def test_a_node_that_is_never_the_first_counts_alone(autojump_clock: Clock) -> None:
    world = World()
    plugin = limiter(world, max_messages_per_hour=1)
    world.shared.lost_swaps = 1000
    assert [bool(reply) for reply in await mails(plugin, 3)] == [False, True, True]
    assert 2 * MAX_SWAPS <= world.shared.calls["swap"] <= 3 * (1 + MAX_SWAPS)


async def test_a_single_node_only_writes(autojump_clock: Clock) -> None:
    """One call of the store for what passes, one for what is refused; after a pause as well."""
    world = World()
    plugin = limiter(world, max_messages_per_hour=6)
    for pause in (0, 1, 4, 600, 595, 605, 10_000):
        await trio.sleep(pause)
        assert await mails(plugin, 1) == [""]
    assert world.shared.calls == {"swap": 7}
    for _ in range(5):
        await mails(plugin, 1)
    world.shared.calls.clear()
    for _ in range(5):
        assert await mails(plugin, 1) != [""]
    assert world.shared.calls == {"get": 5}


async def test_nodes_that_take_turns_stop_guessing(autojump_clock: Clock) -> None:
    world = World()
    nodes = [limiter(world, max_messages_per_hour=1000) for _ in range(2)]
    for number in range(40):
        assert await mails(nodes[number % 2], 1) == [""]
    world.shared.calls.clear()
    for number in range(40):
        assert await mails(nodes[number % 2], 1) == [""]
    assert world.shared.calls == {"get": 40, "swap": 40}
    world.shared.calls.clear()
    for _ in range(20):  # one of them is stopped; the other learns that it is alone
        assert await mails(nodes[0], 1) == [""]
    assert world.shared.calls["get"] <= 10
    assert world.shared.calls["swap"] == 20


async def test_guesses_change_nothing_about_what_passes(autojump_clock: Clock) -> None:
    """Two nodes, in turns and alone, let pass what one would: in every stretch of time."""
    chance = random.Random(5)
    world = World()
    nodes = [limiter(world, max_messages_per_hour=60) for _ in range(2)]
    alone = limiter(World(), max_messages_per_hour=60)
    for number in range(600):
        await trio.sleep(chance.choice((0, 0, 1, 30, 59, 61, 300)))
        node = nodes[chance.randrange(2) if number % 100 < 50 else 0]
        assert await mails(node, 1) == await mails(alone, 1)


async def test_without_the_store_this_process_counts_and_says_so_once_a_minute(autojump_clock: Clock) -> None:
    world = World()
    plugin = limiter(world, max_messages_per_hour=4)
    assert await mails(plugin, 2) == ["", ""]
    world.shared.is_away = True
    assert [bool(reply) for reply in await mails(plugin, 3)] == [False, False, True]
    assert len(world.events("plugin.shared_away")) == 1
    asked = world.shared.calls["get"]
    await mails(plugin, 3)
    assert world.shared.calls["get"] == asked  # it is left alone for a while
    for _ in range(5):
        await trio.sleep(REST_SECONDS)
        await mails(plugin, 1)
    assert world.shared.calls["get"] == asked + 5
    assert len(world.events("plugin.shared_away")) == 1
    await trio.sleep(LOG_SECONDS)
    await mails(plugin, 1)
    assert len(world.events("plugin.shared_away")) == 2
    world.shared.is_away = False
    await trio.sleep(REST_SECONDS)
    assert await mails(plugin, 1) == [""]
    assert world.shared.calls["swap"] > 0


async def test_a_store_that_hangs_costs_a_client_two_seconds_once(autojump_clock: Clock) -> None:
    world = World()
    plugin = limiter(world, max_messages_per_hour=2)
    world.shared.hangs_seconds = 1000.0
    begin = trio.current_time()
    assert [bool(reply) for reply in await mails(plugin, 3)] == [False, False, True]
    assert trio.current_time() - begin == SHARED_SECONDS
    assert len(world.events("plugin.shared_away")) == 1


async def test_a_store_that_is_too_slow_for_all_keeps_nobody_for_long(autojump_clock: Clock) -> None:
    """Sessions of one subject take turns: those far behind are counted here, and none of them twice."""
    world = World()
    plugin = limiter(world, max_messages_per_hour=80)
    world.shared.hangs_seconds = 0.5
    replies: list[str] = []

    async def come() -> None:
        replies.extend(await mails(plugin, 1))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(come)
    assert trio.current_time() == SHARED_SECONDS
    assert len(replies) == 100
    assert 76 <= replies.count("") <= 80
    assert len(world.events("plugin.shared_away")) == 1


async def test_those_who_wait_for_their_turn_do_not_ask_a_store_that_failed_meanwhile(autojump_clock: Clock) -> None:
    world = World()
    plugin = limiter(world, max_messages_per_hour=80)
    world.shared.is_away, world.shared.hangs_seconds = True, 0.1
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(mails, plugin, 1)
    assert sum(world.shared.calls.values()) == 1


async def test_a_look_at_a_store_that_hangs_is_waited_for_once_a_rest(autojump_clock: Clock) -> None:
    world = World()
    network, sender = NetworkRatesSection(None, None, None, None, 1000), SenderRatesSection(octets_per_hour=1000)
    plugin = limiter(world, max_data_per_hour=1000, per_network=network, per_sender=sender)
    world.shared.hangs_seconds = 1000.0
    for _ in range(3):
        assert await plugin.on_mail_from(a_mail(declared_size=10)) is CONTINUE
    assert trio.current_time() == SHARED_SECONDS


@pytest.mark.parametrize("away", [False, True])
async def test_a_clock_that_was_ahead_locks_nobody_out(away: bool, autojump_clock: Clock) -> None:
    """As after a start with a wrong clock that the network sets later: what was kept means nothing any more."""
    world = World()
    world.shared.is_away = away
    plugin = limiter(world, max_messages_per_minute=60, max_data_per_hour=1000)
    world.clock.step(20 * 365 * 86_400)
    assert await mails(plugin, 61) == [""] * 60 + [TOO_MANY]
    await plugin.on_data_complete(with_content(a_mail(), 1000))
    world.clock.step(-20 * 365 * 86_400)
    for _ in range(3):
        assert await mails(plugin, 61) == [""] * 60 + [TOO_MANY]
        assert reply_of(await plugin.on_mail_from(a_mail(declared_size=1000))) == TOO_MANY
        await trio.sleep(60)
    assert reply_of(await plugin.on_mail_from(a_mail(declared_size=1000))) == ""


async def test_what_is_remembered_here_is_bounded(autojump_clock: Clock) -> None:
    world = World()
    world.shared.is_away = True
    plugin = limiter(world, max_messages_per_hour=1, cache_size=100)
    for number in range(300):
        assert await mails(plugin, 1, client=f"10.0.{number // 250}.{number % 250}") == [""]
    assert len(plugin._counters._here) == 100
    (refused,) = await mails(plugin, 1, client="10.0.1.49")
    assert refused


def test_keys_fit_into_the_store() -> None:
    long, odd = "x" * 400, "messages:sender:a\nb@c"
    assert len(bounded_key(long)) < MAX_KEY_OCTETS
    assert bounded_key(long) != bounded_key(long + "x")
    assert bounded_key(odd).isprintable()
    assert bounded_key("messages:address:192.0.2.1") == "messages:address:192.0.2.1"
    assert len(bounded_key("ü" * 149).encode()) <= MAX_KEY_OCTETS


# ---- only saying so ------------------------------------------------------------------------------


async def test_a_dry_run_only_reports(autojump_clock: Clock) -> None:
    world = World()
    plugin = limiter(world, connection_rate_per_minute=1, max_messages_per_hour=1, dry_run=True)
    first = a_session()
    assert await plugin.on_connect(first) is CONTINUE
    assert await plugin.on_mail_from(a_mail(first)) == CONTINUE
    session = a_session()
    assert await plugin.on_connect(session) is CONTINUE
    refused = "would answer 421 4.7.1 too many connections from your address, try again in 60 seconds"
    assert [event["report"] for event in world.events("plugin.would_refuse")] == [refused]
    mail: MailInHand = a_mail(session)
    verdict = await plugin.on_mail_from(mail)
    assert word_of(verdict) == "would answer 450 4.7.1 too many mails from your address, try again in 3600 seconds"
    assert len(world.events("plugin.would_refuse")) == 2
    for _ in range(5):
        await plugin.on_mail_from(a_mail(session))
    assert len(world.events("plugin.would_refuse")) == 2  # each thing once a session


async def test_what_a_dry_run_said_before_there_was_a_mail_stands_at_the_mail(autojump_clock: Clock) -> None:
    plugin = limiter(World(), blacklist_ips=("192.0.2.1",), dry_run=True)
    session = a_session()
    assert await plugin.on_connect(session) is CONTINUE
    word = word_of(await plugin.on_mail_from(a_mail(session)))
    assert word == "would answer 554 5.7.1 your address is not welcome here"


async def test_a_mail_bears_no_word_that_was_said_of_another(autojump_clock: Clock) -> None:
    plugin, session = limiter(World(), max_messages_per_minute=1, dry_run=True), a_session()
    await plugin.on_connect(session)
    words = [word_of(await plugin.on_mail_from(a_mail(session))) for _ in range(2)]
    await trio.sleep(60)
    words.append(word_of(await plugin.on_mail_from(a_mail(session))))
    assert [bool(word) for word in words] == [False, True, False]


async def test_a_dry_run_reports_a_bounded_number_of_things(autojump_clock: Clock) -> None:
    world = World()
    plugin = limiter(world, max_recipients_per_hour=1, dry_run=True)
    mail = a_mail()
    for number in range(50):
        await plugin.on_rcpt_to(mail, to(f"{number}@here.example"))
        await trio.sleep(1)  # another text each time
    assert len(world.events("plugin.would_refuse")) == 10
