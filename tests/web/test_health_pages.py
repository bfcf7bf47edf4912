"""The pages for everybody on this machine, and the door in front of every page."""

from collections.abc import Mapping

import pytest
import trio
import trio.testing
from starlette.types import ASGIApp

from elemta.storage.base import StoreUnavailable
from elemta.storage.records import QueueState
from elemta.web import health
from elemta.web.app import public_app
from elemta.web.door import HostRule
from tests.web.desk import Desk, asking


def public(desk: Desk) -> ASGIApp:
    return public_app(desk.control, hosts=["mail.example.com", "192.0.2.1"])


async def test_livez() -> None:
    async with asking(public(Desk())) as client:
        answer = await client.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"alive": True})


async def test_readyz_says_what_is_wrong() -> None:
    desk = Desk()
    async with asking(public(desk)) as client:
        good = await client.get("/readyz")
        desk.health.found["store"] = "the store fails; new mail is answered 451"
        bad = await client.get("/readyz")
    assert (good.status_code, good.json()["ready"]) == (200, True)
    assert bad.status_code == 503
    assert bad.json() == {
        "ready": False,
        "checks": {
            "listeners": {"ok": True, "reason": ""},
            "store": {"ok": False, "reason": "the store fails; new mail is answered 451"},
            "disk": {"ok": True, "reason": ""},
        },
    }


async def test_metrics_have_the_queue_s_sizes(autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk()
    await desk.add()
    async with asking(public(desk)) as client:
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert 'elemta_queue_size{queue_type="deferred"} 1.0' in answer.text
        assert 'elemta_queue_size{queue_type="held"} 0.0' in answer.text
        await desk.add()
        await client.get("/metrics")
        assert desk.counted == 1
        await trio.sleep(health.COUNTS_SECONDS)
        answer = await client.get("/metrics")
    assert 'elemta_queue_size{queue_type="deferred"} 2.0' in answer.text
    assert desk.counted == 2


class SickDesk(Desk):
    """A queue whose store is away, or never answers."""

    def __init__(self, *, hangs: bool) -> None:
        super().__init__()
        self._hangs = hangs

    async def counts(self) -> Mapping[QueueState, int]:
        self.counted += 1
        if self._hangs:
            await trio.sleep_forever()
        raise StoreUnavailable("the disk is gone")


@pytest.mark.parametrize("hangs", [False, True])
async def test_metrics_outlive_the_store(hangs: bool, autojump_clock: trio.testing.MockClock) -> None:
    desk = SickDesk(hangs=hangs)
    async with asking(public(desk)) as client:
        start = trio.current_time()
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert "elemta_connections_total" in answer.text
    assert trio.current_time() - start == (health.COUNTING_SECONDS if hangs else 0)


async def test_one_scrape_alone_asks_the_store(autojump_clock: trio.testing.MockClock) -> None:
    desk = SickDesk(hangs=True)
    async with asking(public(desk)) as client, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(client.get, "/metrics")
    assert desk.counted == 1


async def test_a_store_that_is_away_is_a_problem_document() -> None:
    async with asking(SickDesk(hangs=False).app) as client:
        answer = await client.get("/api/ops/v1/status")
    assert (answer.status_code, answer.json()["code"]) == (503, "store-unavailable")
    assert answer.json()["detail"] == "the disk is gone"
    assert answer.headers["retry-after"] == "5"


# ---- the door ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
async def test_pages_are_only_read(method: str) -> None:
    async with asking(public(Desk())) as client:
        answer = await client.request(method, "/metrics")
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


async def test_head_is_answered() -> None:
    async with asking(public(Desk())) as client:
        answer = await client.head("/readyz")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_operators_pages_are_not_public() -> None:
    async with asking(public(Desk())) as client:
        answer = await client.get("/api/ops/v1/status")
    assert answer.status_code == 404


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8025",
        "127.0.0.1:8025",
        "127.8.9.1",
        "[::1]:8025",
        "localhost.",
        "mail.example.com",
        "192.0.2.1:80",
    ],
)
async def test_our_own_names_are_answered(host: str) -> None:
    async with asking(public(Desk())) as client:
        answer = await client.get("/livez", headers={"host": host})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "192.0.2.9",
        "[2001:db8::1]",
        "",
        "localhost@evil",
        "127.0.0.1.evil.example",
        "a:b:c",
        "localhost:1:2",
    ],
)
async def test_foreign_names_are_not(host: str) -> None:
    async with asking(public(Desk())) as client:
        answer = await client.get("/metrics", headers={"host": host})
    assert (answer.status_code, answer.json()["code"]) == (421, "misdirected")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_two_hosts_are_none() -> None:
    rule = HostRule([])
    assert rule.allows([b"localhost"])
    assert not rule.allows([])
    assert not rule.allows([b"localhost", b"localhost"])


async def test_every_answer_keeps_browsers_out_of_trouble() -> None:
    async with asking(public(Desk())) as client:
        for path in ("/livez", "/metrics", "/nowhere"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]


class Defect(Desk):
    """A desk with a defect."""

    async def counts(self) -> Mapping[QueueState, int]:
        raise ZeroDivisionError("a defect\nwith two lines")


async def test_a_defect_ends_its_request_and_is_logged_once() -> None:
    desk = Defect()
    async with asking(desk.app) as client:
        answer = await client.get("/api/ops/v1/status?")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal-error")
        assert "defect" not in answer.text
        assert (await client.get("/livez")).status_code == 200
    lines = desk.logged().splitlines()
    assert len(lines) == 1
    assert '"event":"web.defect"' in lines[0]
    assert '"error":"ZeroDivisionError: a defect' in lines[0]
