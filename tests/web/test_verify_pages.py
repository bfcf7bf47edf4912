"""Whether the queue is whole: page by page, with damage, with content that is shared or just delivered."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import attrs
import pytest

from elemta.storage.base import ContentMissing, Finding, Insert
from elemta.storage.records import ContentRef, QueuedMail, QueueState
from elemta.web import verify
from tests.web.desk import OCTETS, Desk, ask


class RottenDesk(Desk):
    """Some content is not what it was; some is gone when it is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.rotten: set[str] = set()
        self.leaving: set[str] = set()
        self.read = 0

    async def read_content(self, ref: ContentRef, offset: int, limit: int) -> bytes:
        self.read += 1
        if ref.id in self.leaving:
            raise ContentMissing("gone")
        octets = await super().read_content(ref, offset, limit)
        return octets[::-1] if ref.id in self.rotten else octets

    async def get(self, queue_id: str) -> QueuedMail | None:
        mail = await super().get(queue_id)
        return None if mail is not None and mail.content.id in self.leaving else mail


@pytest.fixture
def desk() -> RottenDesk:
    return RottenDesk()


async def add(desk: Desk, **changes: Any) -> QueuedMail:
    """A mail with a digest."""
    queue_id = desk.new_id()
    ref = ContentRef(queue_id, len(OCTETS), digest=sha256(OCTETS).hexdigest())
    return await desk.add(content=ref, **changes)


async def look(desk: Desk, **parameters: object) -> dict[str, Any]:
    answer = await ask(desk, "/store/verify", params=parameters)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_whole_queue_has_no_damage(desk: RottenDesk) -> None:
    for _ in range(3):
        await add(desk)
    found = await look(desk)
    assert found == {
        "schema": 1,
        "checked": 3,
        "octets": 3 * len(OCTETS),
        "without_digest": 0,
        "damaged": [],
        "next": None,
    }
    assert (await look(Desk()))["checked"] == 0


async def test_damage_is_named(desk: RottenDesk) -> None:
    await add(desk)
    bad = await add(desk, state=QueueState.HELD)
    desk.rotten.add(bad.content.id)
    (row,) = (await look(desk))["damaged"]
    assert (row["id"], row["state"]) == (bad.id, "held")
    assert "SHA-256" in row["what"]


async def test_without_a_digest_the_size_is_compared(desk: RottenDesk) -> None:
    await desk.add()
    found = await look(desk)
    assert (found["without_digest"], found["damaged"]) == (1, [])


async def test_pages_go_on_where_the_last_one_ended(desk: RottenDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [(await add(desk)).id for _ in range(5)]
    first = await look(desk, limit=2)
    assert (first["checked"], first["next"]) == (2, ids[1])
    monkeypatch.setattr(verify, "VERIFY_OCTETS", 1)
    second = await look(desk, limit=100, after=ids[1])
    assert (second["checked"], second["next"]) == (1, ids[2])
    monkeypatch.undo()
    last = await look(desk, limit=2, after=ids[2])
    assert (last["checked"], last["next"]) == (2, ids[4])
    assert (await look(desk, after=ids[4]))["next"] is None


async def test_shared_content_is_read_once_unless_it_is_damaged(desk: RottenDesk) -> None:
    mail = await add(desk)
    other = attrs.evolve(mail, id=desk.new_id())
    await desk.store.commit([Insert(other)])
    assert (await look(desk))["octets"] == len(OCTETS)
    assert desk.read == 1
    desk.rotten.add(mail.content.id)
    assert [row["id"] for row in (await look(desk))["damaged"]] == [mail.id, other.id]


async def test_a_mail_that_is_delivered_meanwhile_is_no_damage(desk: RottenDesk) -> None:
    mail = await add(desk)
    desk.leaving.add(mail.content.id)
    assert (await look(desk))["damaged"] == []


@pytest.mark.parametrize("parameters", [{"limit": 0}, {"limit": 1001}, {"after": "x"}, {"state": "held"}])
async def test_a_question_of_no_form_is_refused(parameters: dict[str, object], desk: RottenDesk) -> None:
    answer = await ask(desk, "/store/verify", params=parameters)
    assert answer.status_code == 400


async def test_what_the_store_finds_odd_is_passed_on(desk: RottenDesk) -> None:
    class Odd:
        async def inspect(self) -> Sequence[Finding]:
            return [Finding("queue/x", "nothing of ours")]

    assert (await ask(desk, "/store/findings")).json() == {"schema": 1, "findings": []}
    store: Any = Odd()
    desk.control = attrs.evolve(desk.control, store=store)
    desk.use_inbox(None)
    found = (await ask(desk, "/store/findings")).json()["findings"]
    assert found == [{"where": "queue/x", "what": "nothing of ours"}]
