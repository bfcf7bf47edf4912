"""The queue's pages, asked as a command asks them."""

from urllib.parse import quote

import attrs
import pytest

from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Recipient
from elemta.mail.reply import Reply
from elemta.storage.records import UNTRIED, QueueState, RecipientStatus
from elemta.web import queue
from elemta.web.answers import encode
from elemta.web.base import PIECE_OCTETS
from tests.web.desk import LATER, START, Desk, ask


async def test_the_list_is_paged_in_order_of_arrival() -> None:
    desk = Desk()
    ids = [(await desk.add()).id for _ in range(5)]
    first = (await ask(desk, "/queue?limit=2")).json()
    assert [mail["id"] for mail in first["mails"]] == ids[:2]
    rest = (await ask(desk, f"/queue?limit=10&after={first['next']}")).json()
    assert [mail["id"] for mail in rest["mails"]] == ids[2:]
    assert rest["next"] is None


async def test_a_page_larger_than_a_chunk_is_whole() -> None:
    desk = Desk()
    ids = [(await desk.add()).id for _ in range(queue.CHUNK_MAILS + 7)]
    page = (await ask(desk, f"/queue?limit={queue.PAGE_MAILS}")).json()
    assert [mail["id"] for mail in page["mails"]] == ids


async def test_a_page_of_large_mails_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    ids = [(await desk.add()).id for _ in range(5)]
    monkeypatch.setattr(queue, "PAGE_OCTETS", 100)
    found: list[str] = []
    cursor = ""
    while cursor is not None:
        page = (await ask(desk, f"/queue?limit=10&after={cursor}")).json()
        assert len(page["mails"]) <= 1
        found += [mail["id"] for mail in page["mails"]]
        cursor = page["next"]
    assert found == ids


async def test_what_a_list_says_of_a_mail() -> None:
    desk = Desk()
    await desk.deferred()
    (mail,) = (await ask(desk, "/queue")).json()["mails"]
    assert mail | {"id": "", "origin_id": ""} == {
        "id": "",
        "origin_id": "",
        "state": "deferred",
        "priority": "normal",
        "sender": "sender@example.org",
        "recipients": [{"address": "someone@example.net", "status": "pending", "reply": str(LATER)}],
        "destination": "example.net",
        "size": 26,
        "received_at": "2027-01-15T08:00:00.000Z",
        "next_attempt_at": "2027-01-15T08:05:00.000Z",
        "expires_at": "2027-01-16T08:00:00.000Z",
        "attempt_count": 1,
        "in_flight": False,
        "reason": "",
        "summary": f"tried once, waits for its next attempt: {LATER}",
    }


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("state=held", [1]),
        ("state=hold", [1]),
        ("state=held,deferred", [0, 1, 2]),
        ("state=held&state=deferred", [0, 1, 2]),
        ("state=failed", []),
        ("sender=%3C%3E", [2]),
        ("sender=sender%40example.org", [0, 1]),
        ("sender=@EXAMPLE.org", [0, 1]),
        ("recipient=someone%40example.net", [0, 1, 2]),
        ("recipient=@example.com", []),
        ("destination=example.com", []),
        ("received_before=2027-01-15T07:59:59Z", []),
        ("received_before=2027-01-15T08:00:00Z&state=held", [1]),
    ],
)
async def test_filters(asked: str, found: list[int]) -> None:
    desk = Desk()
    plain = await desk.add()
    mails = [plain, await desk.add(state=QueueState.HELD)]
    mails.append(await desk.add(envelope=attrs.evolve(plain.envelope, reverse_path=None)))
    page = (await ask(desk, f"/queue?{asked}")).json()
    assert [mail["id"] for mail in page["mails"]] == [mails[index].id for index in found]


@pytest.mark.parametrize(
    "asked",
    [
        "state=",
        "state=everything",
        "sate=held",
        "limit=0",
        "limit=1001",
        "limit=%C2%B2",
        "limit=-1",
        "limit=1&limit=2",
        "after=../../etc/passwd",
        "after=%00",
        "sender=nobody",
        "sender=a%0A@b",
        "recipient=" + "a" * 600 + "@b",
        "received_before=yesterday",
        "received_before=2027-01-15T08:00:00",
    ],
)
async def test_what_is_not_understood_is_refused(asked: str) -> None:
    answer = await ask(Desk(), f"/queue?{asked}")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] in ("bad-request", "bad-id")


async def test_a_misspelt_filter_gets_a_suggestion() -> None:
    answer = await ask(Desk(), "/queue?sate=held")
    assert 'did you mean "state"?' in answer.json()["detail"]


# ---- one mail ----------------------------------------------------------------------------------


async def test_one_mail_with_its_history_and_why_it_waits() -> None:
    desk = Desk()
    mail = await desk.deferred()
    found = (await ask(desk, f"/queue/{mail.id}")).json()
    assert found["attempts"] == [
        {
            "time": "2027-01-15T08:00:00.000Z",
            "recipient": "someone@example.net",
            "host": "mx.example.net",
            "address": "192.0.2.1:25",
            "result": "deferred",
            "code": 451,
            "enhanced": "4.7.1",
            "reply": str(LATER),
            "duration": 1.25,
        }
    ]
    assert found["attempts_left_out"] == 0
    assert found["why"] == [
        {
            "recipient": "someone@example.net",
            "code": "backoff",
            "text": f"tried once, waits for its next attempt: {LATER}",
            "since": "2027-01-15T08:00:01.250Z",
            "until": "2027-01-15T08:05:00.000Z",
            "source": str(LATER),
            "next_attempt": "2027-01-15T08:05:00.000Z",
            "expires": "2027-01-16T08:00:00.000Z",
            "hint": f"elemta queue retry {mail.id}",
        }
    ]


async def test_a_mail_that_left_the_queue_keeps_its_attempts() -> None:
    desk = Desk()
    mail = await desk.deferred()
    answer = await ask(desk, "/queue/actions", "POST", json={"action": "delete", "ids": [mail.id]})
    assert answer.json()["changed"] == [mail.id]
    found = (await ask(desk, f"/queue/{mail.id}")).json()
    assert found["state"] == "gone"
    assert [attempt["result"] for attempt in found["attempts"]] == ["deferred"]
    assert (await ask(desk, f"/queue/{mail.id}/raw")).status_code == 404


@pytest.mark.parametrize("kept", [21, 18, 8])
@pytest.mark.parametrize("added", ["", "!", "z", "zz"])
async def test_an_unknown_id_gets_the_nearest_one(kept: int, added: str) -> None:
    desk = Desk()
    ids = [(await desk.add()).id for _ in range(20)]
    asked = ids[7][:kept] + added
    answer = await ask(desk, f"/queue/{asked}")
    if "!" in added:
        assert answer.status_code == 400
        return
    assert (answer.status_code, answer.json()["suggestion"]) == (404, ids[7])
    assert f"did you mean {ids[7]}?" in answer.json()["detail"]


async def test_an_id_like_no_other_gets_no_suggestion() -> None:
    desk = Desk()
    await desk.add()
    answer = await ask(desk, "/queue/" + "Z" * 22)
    assert answer.status_code == 404
    assert answer.json()["suggestion"] is None


@pytest.mark.parametrize(
    "text", ["..", "%2e%2e%2fetc", "a b", "'; DROP TABLE mails", "0" * 40, "é" * 22, "0\n" * 11, "\x00"]
)
@pytest.mark.parametrize("page", ["", "/raw"])
async def test_hostile_ids_reach_no_store(text: str, page: str) -> None:
    desk = Desk()
    await desk.add()
    answer = await ask(desk, f"/queue/{quote(text, safe='')}{page}")
    assert answer.status_code in (400, 404)
    assert text not in answer.text


async def test_a_wrong_page_is_a_problem_document() -> None:
    answer = await ask(Desk(), "/no/such/page")
    assert (answer.status_code, answer.json()["code"]) == (404, "no-such-page")
    answer = await ask(Desk(), "/queue", "PUT")
    assert (answer.status_code, answer.json()["code"]) == (405, "method-not-allowed")
    assert "GET" in answer.headers["allow"]


# ---- octets ------------------------------------------------------------------------------------

LARGE = bytes(range(256)) * (PIECE_OCTETS // 100)


async def test_raw_gives_the_octets() -> None:
    desk = Desk()
    mail = await desk.add(LARGE)
    answer = await ask(desk, f"/queue/{mail.id}/raw")
    assert answer.content == LARGE
    assert answer.headers["content-length"] == str(len(LARGE))
    assert answer.headers["content-type"] == "message/rfc822"
    assert answer.headers["x-content-type-options"] == "nosniff"
    head = await ask(desk, f"/queue/{mail.id}/raw", "HEAD")
    assert (head.headers["content-length"], head.content) == (str(len(LARGE)), b"")


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("0-9", 0, 10),
        ("5-", 5, None),
        (f"{PIECE_OCTETS - 1}-{PIECE_OCTETS + 1}", PIECE_OCTETS - 1, PIECE_OCTETS + 2),
        ("10-99999999", 10, None),
    ],
)
async def test_raw_gives_a_range(asked: str, start: int, stop: int | None) -> None:
    desk = Desk()
    mail = await desk.add(LARGE)
    answer = await ask(desk, f"/queue/{mail.id}/raw", headers={"range": f"bytes={asked}"})
    assert answer.status_code == 206
    assert answer.content == LARGE[start:stop]
    last = (stop or len(LARGE)) - 1
    assert answer.headers["content-range"] == f"bytes {start}-{last}/{len(LARGE)}"


async def test_a_range_beyond_the_end_is_refused() -> None:
    desk = Desk()
    mail = await desk.add()
    answer = await ask(desk, f"/queue/{mail.id}/raw", headers={"range": "bytes=26-"})
    assert (answer.status_code, answer.headers["content-range"], answer.content) == (416, "bytes */26", b"")


@pytest.mark.parametrize("asked", ["bytes=-5", "lines=0-9", "bytes=9-0", "bytes=0-1,4-5", "bytes=²-9"])
async def test_other_ranges_give_the_whole(asked: str) -> None:
    desk = Desk()
    mail = await desk.add()
    answer = await ask(desk, f"/queue/{mail.id}/raw", headers={"range": asked.encode()})
    assert (answer.status_code, len(answer.content)) == (200, 26)


async def test_missing_content_is_said() -> None:
    desk = Desk()
    mail = await desk.add()
    desk.store._contents.clear()  # the only way to lose content of the store in memory
    answer = await ask(desk, f"/queue/{mail.id}/raw")
    assert (answer.status_code, answer.json()["code"]) == (410, "content-missing")


# ---- figures -----------------------------------------------------------------------------------


async def test_stats_have_the_originals_names() -> None:
    desk = Desk()
    await desk.add()
    await desk.add(state=QueueState.HELD)
    desk.metrics.messages_received.inc(5)
    desk.metrics.messages_delivered.inc(3)
    found = (await ask(desk, "/queue/stats")).json()
    assert found.pop("last_updated").startswith("2027-01-15T08:00:00")
    assert found == {
        "schema": 1,
        "active_count": 0,
        "deferred_count": 1,
        "held_count": 1,
        "hold_count": 1,
        "failed_count": 0,
        "delivered_count": 0,
        "total_processed": 5,
        "total_delivered": 3,
        "total_failed": 0,
    }


async def test_a_stopped_server_has_no_totals() -> None:
    found = (await ask(Desk(running=False), "/queue/stats")).json()
    assert found["total_processed"] is None


async def test_status() -> None:
    desk = Desk()
    desk.health.found["disk"] = "only 3 MiB are free"
    found = (await ask(desk, "/status")).json()
    assert found["running"] is True
    assert found["ready"] is False
    assert found["checks"]["disk"] == {"ok": False, "reason": "only 3 MiB are free"}
    assert found["started_at"] == "2027-01-15T07:59:00.000Z"


# ---- hostile octets ----------------------------------------------------------------------------


async def test_control_characters_are_escaped() -> None:
    desk = Desk()
    await desk.deferred(Reply(451, "", "\x1b[2J bell\x07 \x9b"))
    answer = await ask(desk, "/queue")
    assert answer.headers["content-type"] == "application/json"
    (mail,) = answer.json()["mails"]
    assert mail["recipients"][0]["reply"] == "451 \x1b[2J bell\x07 \x9b"
    assert b"\x1b" not in answer.content


def test_what_utf8_has_no_octets_for_is_escaped() -> None:
    assert encode({"text": "\udcff\n"}) == b'{"text": "\\udcff\\n"}'


async def test_a_mail_with_many_recipients_shows_each() -> None:
    desk = Desk()
    people = tuple(Recipient(Address(f"r{number}", "example.net")) for number in range(3))
    done = attrs.evolve(UNTRIED, status=RecipientStatus.DELIVERED)
    mail = await desk.add(envelope=Envelope(None, people), progress=(done, UNTRIED, UNTRIED), next_attempt_at=START - 5)
    found = (await ask(desk, f"/queue/{mail.id}")).json()
    assert [each["status"] for each in found["recipients"]] == ["delivered", "pending", "pending"]
    assert [each["recipient"] for each in found["why"]] == ["r1@example.net", "r2@example.net"]
    assert found["summary"] == "due: waits for a free delivery (and 1 more)"
