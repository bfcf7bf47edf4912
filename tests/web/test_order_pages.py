"""Orders: what they change, what they leave alone, what they refuse."""

from typing import Any

import attrs
import pytest
import trio

from elemta.storage.records import QueueState
from elemta.web import orders
from elemta.web.base import PREFIX
from tests.web.desk import START, Desk, ask, order


async def test_each_verb_does_what_it_says() -> None:
    desk = Desk()
    mail = await desk.add()
    held = await order(desk, action="hold", ids=[mail.id], reason="looks odd")
    assert (held["action"], held["changed"], held["dry_run"]) == ("hold", [mail.id], False)
    assert await desk.states() == ["held"]
    found = (await ask(desk, f"/queue/{mail.id}")).json()
    assert (found["reason"], found["summary"], found["next_attempt_at"]) == ("looks odd", "held: looks odd", None)
    await order(desk, action="release", ids=[mail.id])
    assert await desk.states() == ["active"]
    await order(desk, action="delete", ids=[mail.id])
    assert await desk.states() == []


async def test_retry_makes_due_now() -> None:
    desk = Desk()
    mail = await desk.add()
    await order(desk, action="retry", ids=[mail.id])
    tried = await desk.get(mail.id)
    assert tried is not None
    assert tried.next_attempt_at == desk.clock.now


async def test_what_an_order_cannot_change_is_told_apart() -> None:
    desk = Desk()
    due = await desk.add(next_attempt_at=START - 1)
    failed = await desk.add(state=QueueState.FAILED)
    held = await desk.add(state=QueueState.HELD)
    unknown = "0" * 22
    answer = await order(desk, action="hold", ids=[due.id, failed.id, held.id, unknown])
    assert answer["changed"] == [due.id]
    assert answer["unknown"] == [unknown]
    assert answer["skipped"] == [
        {"id": failed.id, "state": "failed", "already": False},
        {"id": held.id, "state": "held", "already": True},
    ]


async def test_mail_in_flight_is_left_alone() -> None:
    desk = Desk()
    mail = await desk.in_flight()
    for dry in (True, False):
        answer = await order(desk, action="delete", ids=[mail.id], dry_run=dry)
        assert (answer["changed"], answer["in_flight"]) == ([], [mail.id])
    assert await desk.states() == ["active"]


@pytest.mark.parametrize("by", ["filter", "all"])
async def test_an_order_for_many_goes_page_by_page(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "ORDER_MAILS", 3)
    desk = Desk()
    ids = [(await desk.add()).id for _ in range(8)]
    chosen: dict[str, Any] = {"filter": {"recipient": "@example.net"}} if by == "filter" else {"all": True}
    changed: list[str] = []
    cursor: str | None = ""
    requests = 0
    while cursor is not None:
        answer = await order(desk, action="hold", after=cursor, **chosen)
        changed += answer["changed"]
        cursor = answer["next"]
        requests += 1
    assert (changed, requests) == (ids, 3)
    assert set(await desk.states()) == {"held"}


async def test_an_order_that_changes_what_it_matches_still_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "ORDER_MAILS", 1)
    desk = Desk()
    await desk.in_flight()
    later = await desk.add()
    first = await order(desk, action="delete", all=True)
    assert first["in_flight"] != []
    second = await order(desk, action="delete", all=True, after=first["next"])
    assert second["changed"] == [later.id]


async def test_a_dry_run_changes_nothing_and_shows_samples() -> None:
    desk = Desk()
    ids = [(await desk.add()).id for _ in range(5)]
    answer = await order(desk, action="delete", all=True, dry_run=True)
    assert answer["changed"] == ids
    assert [mail["id"] for mail in answer["samples"]] == ids[: orders.SAMPLE_MAILS]
    assert answer["now"].startswith("2027-01-15T08:00:00.")
    assert len(await desk.states()) == 5


async def test_what_came_after_the_look_is_not_touched() -> None:
    desk = Desk()
    old = await desk.add()
    await desk.add(received_at=START + 10)
    answer = await order(desk, action="delete", all=True, filter={"received_before": "2027-01-15T08:00:05Z"})
    assert answer["changed"] == [old.id]
    assert await desk.states() == ["deferred"]


async def test_a_filter_by_a_state_that_the_verb_never_takes_changes_nothing() -> None:
    desk = Desk()
    await desk.add()
    answer = await order(desk, action="release", filter={"state": "deferred"})
    assert (answer["changed"], answer["skipped"], answer["next"]) == ([], [], None)
    assert await desk.states() == ["deferred"]


async def test_all_terms_of_a_filter_hold_for_ids_too() -> None:
    desk = Desk()
    mail = await desk.add()
    answer = await order(desk, action="delete", ids=[mail.id], filter={"received_before": "2027-01-15T07:00:00Z"})
    assert (answer["changed"], answer["unknown"]) == ([], [mail.id])


GOOD = "0" * 22


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": "delete"},
        {"action": "delete", "filter": {}},
        {"action": "delete", "filter": {"received_before": "2027-01-15T08:00:00Z"}},
        {"action": "delete", "all": False},
        {"action": "delete", "all": "yes"},
        {"action": "delete", "all": True, "ids": [GOOD]},
        {"action": "delete", "all": True, "filter": {"state": "held"}},
        {"action": "delete", "ids": []},
        {"action": "delete", "ids": GOOD},
        {"action": "delete", "ids": ["../" + GOOD]},
        {"action": "delete", "ids": [1]},
        {"action": "delete", "ids": [GOOD] * 251},
        {"action": "delete", "filter": {"sate": "held"}},
        {"action": "delete", "filter": {"state": ["held", 1]}},
        {"action": "delete", "filter": {"state": []}},
        {"action": "delete", "filter": ["held"]},
        {"action": "flush", "all": True},
        {"action": ["delete"], "all": True},
        {"action": "delete", "all": True, "after": "x"},
        {"action": "delete", "all": True, "reason": "why not"},
        {"action": "hold", "all": True, "reason": "two\nlines"},
        {"action": "hold", "all": True, "reason": "x" * 501},
        {"action": "delete", "all": True, "dry": True},
        [],
        "delete",
    ],
)
async def test_an_order_that_is_not_clear_is_refused(body: Any) -> None:
    desk = Desk()
    await desk.add()
    answer = await ask(desk, "/queue/actions", "POST", json=body)
    assert answer.status_code == 400
    assert answer.json()["code"] in ("bad-request", "bad-id")
    assert await desk.states() == ["deferred"]


async def test_what_is_no_json_is_refused() -> None:
    answer = await ask(Desk(), "/queue/actions", "POST", content=b"\xff{")
    assert answer.status_code == 400


async def test_a_request_has_a_bound() -> None:
    """An endless body is refused as soon as it is too long; httpx would send it whole."""
    pieces = 0
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        nonlocal pieces
        await trio.lowlevel.checkpoint()
        pieces += 1
        return {"type": "http.request", "body": b" " * 10_000, "more_body": True}

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    path = f"{PREFIX}/queue/actions"
    scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "query_string": b"", "headers": []}
    await Desk().app(scope, receive, send)
    assert sent[0]["status"] == 413
    assert pieces == 7


async def test_the_original_s_name_of_a_state_is_taken() -> None:
    desk = Desk()
    mail = attrs.evolve(await desk.add(state=QueueState.HELD))
    answer = await order(desk, action="release", filter={"state": ["hold"]})
    assert answer["changed"] == [mail.id]
