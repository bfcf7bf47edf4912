"""A certificate kept over months of virtual time, by a scripted authority."""

import io
import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, field
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from elemta.observe.log import make_logger
from elemta.runtime.ids import SeededIds
from elemta.runtime.threads import InlineThreads
from elemta.runtime.world import Runtime
from elemta.simulation.clock import VirtualClock
from elemta.tls.acme.base import Directory, RateLimited, Window
from elemta.tls.acme.cabinet import Cabinet
from elemta.tls.acme.issue import Issuer, Terms
from elemta.tls.acme.keys import Pair
from elemta.tls.acme.metrics import AcmeMetrics
from elemta.tls.acme.order import Tell
from elemta.tls.acme.service import CertificateKeeper, KeeperOptions, KeeperWatch
from tests.tls.acme.scripted import AWAY, DAY, Billboard, ScriptedAuthority, Site

HOUR = 3600.0
TERMS = Terms("https://authority.example/dir", ("mail.example.com", "example.com"))


class SteadyChance(random.Random):
    """Always the same: the rule without its jitter."""

    def random(self) -> float:
        return 0.0


class CountedIssuer(Issuer):
    """Remembers when attempts began, on Trio's clock."""

    attempts: list[float]

    async def issue(self, current: Pair | None, *, tell: Tell = lambda _: None) -> Pair:
        self.attempts.append(trio.current_time())
        return await super().issue(current, tell=tell)


@define
class Kept:
    """A keeper with all around it."""

    folder: Path
    options: KeeperOptions = KeeperOptions()
    terms: Terms = TERMS
    clock: VirtualClock = field(factory=VirtualClock)
    billboard: Billboard = field(factory=Billboard)
    registry: CollectorRegistry = field(factory=CollectorRegistry)
    taken: list[Pair] = field(factory=list)
    taken_at: list[float] = field(factory=list)
    attempts: list[float] = field(factory=list)
    #: Its buffer is the log's; it must live as long.
    stream: io.TextIOWrapper = field(init=False)
    lines: io.BytesIO = field(factory=io.BytesIO)
    site: Site = field(init=False)
    watch: KeeperWatch = field(init=False)
    refuses: bool = False

    def __attrs_post_init__(self) -> None:
        self.site = Site(self.clock, self.billboard)
        self.stream = io.TextIOWrapper(self.lines, write_through=True)
        self.watch = KeeperWatch(make_logger("info", "json", self.stream), AcmeMetrics(self.registry))

    def issuer(self) -> Issuer:
        cabinet = Cabinet(str(self.folder / "certs"))
        cabinet.open()
        issuer = CountedIssuer(
            self.terms,
            cabinet,
            self.billboard,
            make_authority=lambda key: ScriptedAuthority(self.site, key),
            threads=InlineThreads(),
        )
        issuer.attempts = self.attempts
        return issuer

    def keeper(self) -> CertificateKeeper:
        chance = SteadyChance()
        runtime = Runtime(self.clock, InlineThreads(), SeededIds(self.clock, chance), chance)
        return CertificateKeeper(
            self.issuer(), runtime=runtime, options=self.options, watch=self.watch, on_new=self.take
        )

    async def take(self, pair: Pair) -> None:
        await trio.lowlevel.checkpoint()
        self.taken.append(pair)
        self.taken_at.append(trio.current_time())
        if self.refuses:
            raise RuntimeError("a defect of who serves")

    async def run(self, *stages: tuple[float, Callable[[], None]], until: float) -> None:
        """Run the keeper for `until` seconds; each stage happens at its time."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.keeper().run)
            for at, act in stages:
                await trio.sleep_until(at)
                act()
            await trio.sleep_until(until)
            nursery.cancel_scope.cancel()

    def events(self, *names: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in self.lines.getvalue().splitlines()]
        return [row for row in rows if row["event"] in names]

    def figure(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"elemta_letsencrypt_{name}", labels)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def days(moments: list[float]) -> list[float]:
    return [round(moment / DAY, 2) for moment in moments]


async def test_a_year_is_six_renewals_and_every_pair_is_handed_on(kept: Kept, autojump_clock: MockClock) -> None:
    kept.options = KeeperOptions(look_seconds=12 * HOUR)
    await kept.run(until=365 * DAY)
    assert days(kept.site.issued) == [0, 60, 120, 180, 240, 300, 360]
    assert len(kept.taken) == 7
    assert {frozenset(pair.names) for pair in kept.taken} == {frozenset(TERMS.names)}
    assert [row["event"] for row in kept.events("acme.ordered", "acme.renewed")] == ["acme.ordered"] + [
        "acme.renewed"
    ] * 6
    assert kept.events("acme.failed") == []
    assert kept.figure("renewal_status") == 1
    assert kept.figure("renewal_attempts_total", result="ok") == 7
    assert kept.billboard.shown == {}


async def test_a_certificate_of_a_minute_lives_on_for_an_hour(kept: Kept, autojump_clock: MockClock) -> None:
    kept.site.lifetime = 60
    await kept.run(until=HOUR)
    assert len(kept.site.issued) == 82
    gaps = [after - before for before, after in pairwise(kept.site.issued)]
    assert max(gaps) < 50


async def test_an_authority_that_is_away_for_a_week_delays_one_renewal(kept: Kept, autojump_clock: MockClock) -> None:
    site = kept.site

    def leave() -> None:
        site.always = AWAY

    def come_back() -> None:
        site.always = None

    await kept.run((59 * DAY, leave), (67 * DAY, come_back), until=70 * DAY)
    first, second = kept.site.issued
    assert days([first, second]) == [0, 67.11]
    minutes = [round((after - before) / 60) for before, after in pairwise(kept.attempts[1:])]
    assert minutes[:11] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360]
    assert set(minutes[11:]) == {360}
    # Whatever failed, what is served stayed as it was until the new one came.
    assert len(kept.taken) == 2
    failed = kept.events("acme.failed")
    assert failed[0]["error"] == str(AWAY)
    assert [row["next_in"] for row in failed[:3]] == [60, 120, 240]
    assert kept.figure("renewal_attempts_total", result="failed") == len(failed)


async def test_a_rate_limit_is_kept_to(kept: Kept, autojump_clock: MockClock) -> None:
    kept.site.script = iter([None, None, RateLimited("too many certificates", 36 * HOUR)])
    await kept.run(until=3 * DAY)
    assert kept.attempts == [0.0, pytest.approx(36 * HOUR, abs=1)]
    assert len(kept.site.issued) == 1
    (failed,) = kept.events("acme.failed")
    assert failed["cause"] == "the authority's Retry-After"
    assert failed["next_in"] == 36 * HOUR


async def test_a_wrong_challenge_is_told_with_the_authoritys_words(kept: Kept, autojump_clock: MockClock) -> None:
    def mend() -> None:
        kept.billboard.wrong = False

    kept.billboard.wrong = True
    await kept.run((HOUR, mend), until=2 * HOUR)
    assert len(kept.site.issued) == 1
    failed = kept.events("acme.failed")
    assert {row["error"] for row in failed} == {"nothing at mail.example.com (unauthorized)"}
    assert [row["next_in"] for row in failed] == [300, 600, 1200, 2400]
    # Let's Encrypt takes 5 failed validations an hour.
    assert len([at for at in kept.attempts if at < HOUR]) == 4
    assert kept.billboard.shown == {}


async def test_an_attempt_that_hangs_ends_by_its_deadline(kept: Kept, autojump_clock: MockClock) -> None:
    kept.site.looks = 10**9
    await kept.run(until=301.5)
    (failed,) = kept.events("acme.failed")
    says = "it was not done within 300 s, at the step: waiting until the authority has seen mail.example.com"
    assert failed["error"] == says
    assert kept.billboard.shown == {}


async def test_a_clock_set_forward_by_years_costs_an_order_a_day_at_most(kept: Kept, autojump_clock: MockClock) -> None:
    """The authority has the right time, so each of its certificates looks old here."""
    kept.site.clock = VirtualClock()
    wrong = (DAY, lambda: kept.clock.step(3650 * DAY))
    right = (3.5 * DAY, lambda: kept.clock.step(-3650 * DAY))
    await kept.run(wrong, right, until=70 * DAY)
    assert days(kept.site.issued) == [0, 1, 2, 3, 63]
    assert kept.events("acme.failed") == []


async def test_a_clock_set_back_by_years_hurries_once_it_is_right(kept: Kept, autojump_clock: MockClock) -> None:
    kept.site.clock = VirtualClock()
    wrong = (DAY, lambda: kept.clock.step(-3650 * DAY))
    right = (80 * DAY, lambda: kept.clock.step(3650 * DAY))
    await kept.run(wrong, right, until=90 * DAY)
    first, second = kept.site.issued
    assert first < 5
    assert 80 * DAY < second < 80 * DAY + HOUR + 5


async def test_a_clock_that_steps_while_an_authority_is_away_keeps_the_distance(
    kept: Kept, autojump_clock: MockClock
) -> None:
    kept.site.always = AWAY
    steps = [(minute * 60.0, lambda: kept.clock.step(3650 * DAY)) for minute in range(1, 30)]
    await kept.run(*steps, until=HOUR)
    assert [round(at / 60) for at in kept.attempts] == [0, 1, 3, 7, 15, 31]


async def test_the_authority_may_bring_a_renewal_forward(kept: Kept, autojump_clock: MockClock) -> None:
    kept.site.offers = Directory(suggests_renewal=True)
    now = kept.clock.wall

    def revoke() -> None:
        kept.site.window = lambda: Window(now() - DAY, now())

    begin = now()
    kept.site.window = lambda: Window(begin + 61 * DAY, begin + 62 * DAY, HOUR)
    await kept.run((10 * DAY, revoke), (10.2 * DAY, lambda: setattr(kept.site, "window", lambda: None)), until=15 * DAY)
    assert days(kept.site.issued) == [0, 10]
    assert [bool(order.replaces) for order in kept.site.orders] == [False, True]
    assert kept.events("acme.renewed")[0]["cause"] == "suggested by the authority"
    asked = [at for at, step in kept.site.steps if step == "window" and 0 < at < DAY]
    assert len(asked) == 23


async def test_a_defect_in_what_the_authority_wishes_ends_nothing(kept: Kept, autojump_clock: MockClock) -> None:
    def broken() -> None:
        raise RuntimeError("a defect")

    kept.site.offers = Directory(suggests_renewal=True)
    kept.site.window = broken
    await kept.run(until=61 * DAY)
    assert len(kept.site.issued) == 2
    assert kept.events("acme.defect")[0]["error"] == "a defect"


async def test_a_restart_orders_nothing_anew(kept: Kept, autojump_clock: MockClock) -> None:
    await kept.run(until=DAY)
    await kept.run(until=2 * DAY)
    assert len(kept.site.issued) == 1
    assert [pair.serial for pair in kept.taken] == [kept.taken[0].serial] * 2
    assert len(kept.site.accounts) == 1


async def test_what_another_process_ordered_is_taken(kept: Kept, autojump_clock: MockClock) -> None:
    async def other() -> None:
        await trio.sleep_until(5 * DAY + HOUR / 2)
        issuer = kept.issuer()
        await issuer.issue(await issuer.read())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await kept.run(until=70 * DAY)
    # The next one counts from the other's certificate.
    assert days(kept.site.issued) == [0, 5.02, 65.02]
    # Seen within a look.
    assert days(kept.taken_at) == [0, 5.04, 65.02]


async def test_two_that_want_one_at_once_order_one(kept: Kept, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: kept.run(until=HOUR))
        nursery.start_soon(lambda: kept.run(until=HOUR))
    assert len(kept.site.issued) == 1
    assert len(kept.taken) == 2
    (failed,) = kept.events("acme.failed")
    assert "orders a certificate in" in failed["error"]


async def test_what_was_ordered_meanwhile_is_not_ordered_again(kept: Kept, autojump_clock: MockClock) -> None:
    ours, theirs = kept.issuer(), kept.issuer()
    old = await ours.issue(None)
    new = await theirs.issue(old)
    assert (await ours.issue(old)).serial == new.serial
    assert len(kept.site.issued) == 2
    assert (await ours.issue(new)).serial != new.serial


async def test_without_auto_renew_one_is_ordered_and_no_more(kept: Kept, autojump_clock: MockClock) -> None:
    kept.options = KeeperOptions(renews=False, look_seconds=12 * HOUR)
    await kept.run(until=200 * DAY)
    assert days(kept.site.issued) == [0]


async def test_further_domains_are_ordered_at_once(kept: Kept, autojump_clock: MockClock) -> None:
    await kept.run(until=DAY)
    kept.terms = Terms(TERMS.directory_url, (*TERMS.names, "mx.example.com"))
    await kept.run(until=2 * DAY)
    assert days(kept.site.issued) == [0, 1]


async def test_who_serves_may_fail_to_take_it(kept: Kept, autojump_clock: MockClock) -> None:
    kept.refuses = True
    await kept.run(until=61 * DAY)
    assert len(kept.site.issued) == 2
    assert len(kept.events("acme.not_taken")) == 2


async def test_a_full_disk_is_told_and_tried_again(kept: Kept, autojump_clock: MockClock) -> None:
    keeper = kept.keeper()
    folder = kept.folder / "certs"
    for path in folder.iterdir():
        path.rmdir()
    folder.rmdir()
    folder.write_text("in the way")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await trio.sleep(10)
        folder.unlink()
        (folder / "challenges").mkdir(parents=True)
        await trio.sleep(400)
        nursery.cancel_scope.cancel()
    assert len(kept.site.issued) == 1
    (failed,) = kept.events("acme.failed")
    assert "certs" in failed["error"]


async def test_refusals_say_what_to_do(kept: Kept, autojump_clock: MockClock) -> None:
    kept.site.offers = Directory(terms="https://authority.example/terms", needs_binding=True)
    await kept.run(until=10)
    kept.site.offers = Directory(terms="https://authority.example/terms")
    kept.terms = Terms(TERMS.directory_url, TERMS.names, agrees=False)
    await kept.run(until=20)
    binding, terms = (row["error"] for row in kept.events("acme.failed"))
    assert "eab_key_id" in binding
    assert "accept_terms" in terms
    assert "https://authority.example/terms" in terms
