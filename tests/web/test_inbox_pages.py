"""The pages of dev mode's inbox."""

from typing import Any

import attrs
import pytest
import trio
import trio.testing

from elemta.mail.inbox import InboxEntry
from tests.web.desk import START, Desk, ask


class Octets:
    """Content in memory."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.size = len(octets)
        self.eight_bit = not octets.isascii()

    async def read(self, offset: int, limit: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._octets[offset : offset + limit]


async def catch(desk: Desk, octets: bytes = b"Subject: hi\r\n\r\nhello\r\n", **changes: Any) -> InboxEntry:
    """Put a mail into the inbox."""
    entry = InboxEntry(desk.new_id(), "me@example.org", ("you@example.net",), "hi", len(octets), START)
    entry = attrs.evolve(entry, **changes)
    await desk.inbox.add(entry, Octets(octets))
    return entry


async def test_the_newest_come_first_page_by_page() -> None:
    desk = Desk()
    ids = [(await catch(desk)).id for _ in range(5)]
    first = (await ask(desk, "/inbox?limit=2")).json()
    assert [mail["id"] for mail in first["mails"]] == ids[:2:-1]
    rest = (await ask(desk, f"/inbox?before={first['next']}")).json()
    assert [mail["id"] for mail in rest["mails"]] == ids[2::-1]
    assert rest["next"] is None


async def test_what_is_said_of_a_mail() -> None:
    desk = Desk()
    entry = await catch(desk, reverse_path="", forward_paths=("a@example.net", "b@example.net"))
    found = (await ask(desk, f"/inbox/{entry.id}")).json()
    assert found == {
        "schema": 1,
        "id": entry.id,
        "reverse_path": "",
        "forward_paths": ["a@example.net", "b@example.net"],
        "subject": "hi",
        "size": 22,
        "received_at": "2027-01-15T08:00:00.000Z",
    }


async def test_raw_gives_the_octets() -> None:
    desk = Desk()
    octets = bytes(range(256)) * 3000
    entry = await catch(desk, octets)
    answer = await ask(desk, f"/inbox/{entry.id}/raw")
    assert answer.content == octets


@pytest.mark.parametrize("path", ["/inbox/" + "0" * 22, "/inbox/" + "0" * 22 + "/raw"])
async def test_an_unknown_mail(path: str) -> None:
    assert (await ask(Desk(), path)).status_code == 404


@pytest.mark.parametrize("path", ["/inbox/short", "/inbox/%2e%2e%2f%2e%2e/raw", "/inbox?before=1", "/inbox?limit=x"])
async def test_hostile_ids_are_refused(path: str) -> None:
    assert (await ask(Desk(), path)).status_code in (400, 404)


async def test_removing() -> None:
    desk = Desk()
    one, two, three = [await catch(desk) for _ in range(3)]
    assert (await ask(desk, f"/inbox/{two.id}", "DELETE")).json()["deleted"] == 1
    assert (await ask(desk, f"/inbox/{two.id}", "DELETE")).status_code == 404
    assert (await ask(desk, "/inbox", "DELETE")).status_code == 400
    assert [mail.id for mail in await desk.inbox.list(10)] == [three.id, one.id]
    assert (await ask(desk, "/inbox?all=true", "DELETE")).json()["deleted"] == 2


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("to=b@example.net", 1),
        ("to=B@EXAMPLE.NET", 1),
        ("to=@example.net", 0),
        ("from=%3C%3E", 2),
        ("from=@example.org&subject=ANGE", 1),
        ("subject=gruß", 2),
        ("", 0),
    ],
)
async def test_waiting_finds_what_is_there(asked: str, found: int, autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk()
    entries = [
        await catch(desk),
        await catch(desk, forward_paths=("a@example.net", "b@example.net"), subject="an orange"),
        await catch(desk, reverse_path="", subject="Gruß"),
    ]
    answer = await ask(desk, f"/inbox/wait?timeout=1&{asked}")
    assert answer.json()["id"] == entries[found].id


async def test_waiting_sees_what_comes(autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk()
    old = await catch(desk)
    async with trio.open_nursery() as nursery:

        async def later() -> None:
            await trio.sleep(3)
            await catch(desk, subject="no")
            await trio.sleep(3)
            await catch(desk, subject="yes")

        nursery.start_soon(later)
        answer = await ask(desk, f"/inbox/wait?timeout=10&subject=yes&after={old.id}")
    assert answer.json()["subject"] == "yes"
    assert trio.current_time() == pytest.approx(6)


async def test_waiting_ends(autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk()
    await catch(desk)
    start = trio.current_time()
    answer = await ask(desk, "/inbox/wait?timeout=7&to=nobody@example.net")
    assert (answer.status_code, answer.json()["code"]) == (408, "no-mail-came")
    assert trio.current_time() - start == pytest.approx(7)


@pytest.mark.parametrize("asked", ["timeout=61", "timeout=0", "timeout=-1", "timeout=", "until=now", "after=x"])
async def test_waiting_refuses_what_it_does_not_know(asked: str) -> None:
    assert (await ask(Desk(), f"/inbox/wait?{asked}")).status_code == 400


class FullInbox:
    """An inbox whose disk fails."""

    async def wait_for(self, *_: object) -> InboxEntry:
        raise OSError("the inbox cannot be read")

    list = get = wait_for


@pytest.mark.parametrize("path", ["/inbox", "/inbox/wait", "/inbox/" + "0" * 22])
async def test_a_failing_store_is_said(path: str) -> None:
    desk = Desk()
    desk.use_inbox(FullInbox())
    answer = await ask(desk, path)
    assert (answer.status_code, answer.json()["code"]) == (503, "store-unavailable")
    assert answer.json()["detail"] == "the inbox cannot be read"


async def test_a_server_without_an_inbox_says_so() -> None:
    desk = Desk()
    desk.use_inbox(None)
    answer = await ask(desk, "/inbox")
    assert (answer.status_code, answer.json()["code"]) == (404, "no-inbox")
