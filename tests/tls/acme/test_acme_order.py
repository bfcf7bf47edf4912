"""The steps of one order, and what is left when they end early."""

import pytest
import trio
from trio.testing import MockClock

from elemta.runtime.threads import InlineThreads
from elemta.simulation.clock import VirtualClock
from elemta.tls.acme.base import (
    BAD_NONCE,
    AuthorityRefused,
    Binding,
    Directory,
    Kind,
    RateLimited,
)
from elemta.tls.acme.keys import Pair, make_key
from elemta.tls.acme.order import NONCE_TRIES, Ordering, Wanted
from tests.tls.acme.scripted import AWAY, Billboard, ScriptedAuthority, Site, nonces

WANTED = Wanted(("mail.example.com", "example.com"))
STEPS = [
    "directory",
    "register",
    "new_order",
    *["authorization"] * 2,
    *["answer"] * 2,
    *["authorization"] * 4,
    *["order"] * 2,
    "finalize",
    *["order"] * 2,
    "certificate",
]


@pytest.fixture
def site() -> Site:
    return Site(VirtualClock(), Billboard())


async def order(site: Site, wanted: Wanted = WANTED) -> Pair:
    key = make_key("ecdsa-p256")
    return await Ordering(ScriptedAuthority(site, key), site.billboard, threads=InlineThreads()).run(wanted)


async def test_the_steps_come_in_their_order(site: Site, autojump_clock: MockClock) -> None:
    pair = await order(site)
    assert pair.names == set(WANTED.names)
    assert [step for _, step in site.steps] == STEPS
    ups = ["up mail.example.com", "up example.com"]
    assert site.billboard.history == [*ups, "down mail.example.com", "down example.com"]


async def test_refused_nonces_are_repeated(site: Site, autojump_clock: MockClock) -> None:
    site.script = nonces(NONCE_TRIES - 1)
    await order(site)
    assert [step for _, step in site.steps].count("register") == NONCE_TRIES


async def test_nonces_that_are_always_refused_end_it(site: Site, autojump_clock: MockClock) -> None:
    site.script = nonces(NONCE_TRIES)
    with pytest.raises(AuthorityRefused) as caught:
        await order(site)
    assert caught.value.problem == BAD_NONCE


@pytest.mark.parametrize("after", range(len(STEPS)))
async def test_a_failure_at_any_step_leaves_nothing_up(site: Site, after: int, autojump_clock: MockClock) -> None:
    site.script = iter([*[None] * after, AWAY])
    with pytest.raises(type(AWAY)):
        await order(site)
    assert site.billboard.shown == {}


@pytest.mark.parametrize("after", range(1, len(STEPS)))
async def test_a_shutdown_at_any_step_is_prompt_and_leaves_nothing_up(
    site: Site, after: int, autojump_clock: MockClock
) -> None:
    with trio.move_on_after(after * 0.125):
        await order(site)
    assert trio.current_time() == after * 0.125
    assert site.billboard.shown == {}


async def test_a_challenge_that_is_not_offered_is_told(site: Site, autojump_clock: MockClock) -> None:
    site.kinds = (Kind.DNS,)
    with pytest.raises(AuthorityRefused, match="it offers dns-01, not http-01"):
        await order(site)


async def test_what_is_replaced_is_named_only_to_who_understands_it(site: Site, autojump_clock: MockClock) -> None:
    replacing = Wanted(WANTED.names, replaces="a.b", profile="shortlived")
    await order(site, replacing)
    site.offers = Directory(suggests_renewal=True)
    await order(site, replacing)
    assert [(each.replaces, each.profile) for each in site.orders] == [("", "shortlived"), ("a.b", "shortlived")]


async def test_a_refused_replacement_is_ordered_without_it(site: Site, autojump_clock: MockClock) -> None:
    site.offers = Directory(suggests_renewal=True)
    site.script = iter([None, None, AuthorityRefused("alreadyReplaced", "it was replaced")])
    await order(site, Wanted(WANTED.names, replaces="a.b"))
    assert [each.replaces for each in site.orders] == [""]


async def test_a_rate_limit_is_no_reason_to_ask_twice(site: Site, autojump_clock: MockClock) -> None:
    site.offers = Directory(suggests_renewal=True)
    site.script = iter([None, None, RateLimited("too many", 60.0)])
    with pytest.raises(RateLimited):
        await order(site, Wanted(WANTED.names, replaces="a.b"))
    assert [step for _, step in site.steps].count("new_order") == 1


async def test_secrets_are_in_no_text(site: Site, autojump_clock: MockClock) -> None:
    wanted = Wanted(WANTED.names, binding=Binding("id", "very-secret"))
    pair = await order(site, wanted)
    assert "very-secret" not in repr(wanted)
    assert "PRIVATE" not in repr(pair)
