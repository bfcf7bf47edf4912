"""The nodes of a shared queue: who takes part, who shall drain, what is refused."""

import pytest

from tests.web.desk import START, Desk, ask


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.share()
    return desk


async def test_each_node_is_listed_with_its_lease_and_mails(desk: Desk) -> None:
    await desk.in_flight()
    await desk.store.join("mx2", START)
    desk.clock.now += 10
    answer = (await ask(desk, "/nodes")).json()
    assert (answer["schema"], answer["shared"]) == (1, True)
    busy, idle = answer["nodes"]
    assert (busy["mails"], busy["alive"], busy["draining"]) == (1, True, False)
    assert (idle["name"], idle["mails"]) == ("mx2", 0)
    assert 19 < idle["lease_left"] < 21
    desk.clock.now += 60
    assert {node["alive"] for node in (await ask(desk, "/nodes")).json()["nodes"]} == {False}


async def test_a_node_is_asked_to_drain_and_to_come_back(desk: Desk) -> None:
    await desk.store.join("mx1", START)
    answer = await ask(desk, "/nodes/actions", "POST", json={"action": "drain", "name": "mx1"})
    assert answer.json() == {"schema": 1, "name": "mx1", "action": "drain", "draining": True}
    assert [node.is_draining for node in await desk.store.nodes()] == [True]
    assert "web.node" in desk.logged()
    await ask(desk, "/nodes/actions", "POST", json={"action": "undrain", "name": "mx1"})
    assert [node.is_draining for node in await desk.store.nodes()] == [False]


async def test_an_unknown_node_gets_the_nearest_name(desk: Desk) -> None:
    await desk.store.join("mx1.example.com", START)
    answer = await ask(desk, "/nodes/actions", "POST", json={"action": "drain", "name": "mx1.example.co"})
    assert (answer.status_code, answer.json()["code"]) == (404, "no-such-node")
    assert answer.json()["suggestion"] == "mx1.example.com"
    assert [node.is_draining for node in await desk.store.nodes()] == [False]


@pytest.mark.parametrize(
    "body",
    [{}, {"action": "drain"}, {"action": "kill", "name": "mx1"}, {"action": "drain", "name": 1}, {"node": "mx1"}],
)
async def test_an_order_of_no_form_is_refused(body: dict[str, object], desk: Desk) -> None:
    await desk.store.join("mx1", START)
    answer = await ask(desk, "/nodes/actions", "POST", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-request")


async def test_a_queue_of_one_node_has_nothing_to_drain() -> None:
    desk = Desk()
    answer = (await ask(desk, "/nodes")).json()
    assert (answer["shared"], answer["nodes"], answer["hostname"]) == (False, [], "mail.example.com")
    refused = await ask(desk, "/nodes/actions", "POST", json={"action": "drain", "name": "mail.example.com"})
    assert (refused.status_code, refused.json()["code"]) == (409, "not-shared")
