"""What several worker processes say of themselves, as one."""

from collections.abc import Mapping

import attrs
import orjson
import pytest
from attrs import define, field
from prometheus_client.parser import text_string_to_metric_families

from elemta.observe.metrics import Metrics
from elemta.web.aggregate import Exposition, Merge, merge_of
from elemta.web.app import control_app, public_app, sibling_app
from elemta.web.base import PREFIX
from tests.web.desk import Desk, asking


def samples(text: bytes) -> dict[str, float]:
    """Each sample by its name with its labels."""
    return {
        f"{sample.name}{sorted(sample.labels.items()) or ''}": sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def busy(mails: int, *, code: str) -> Metrics:
    metrics = Metrics()
    metrics.messages_received.inc(mails)
    metrics.messages_refused.labels(code).inc(mails)
    metrics.connections_active.set(mails)
    metrics.connection_duration.observe(mails)
    metrics.queue_size.labels("deferred").set(mails)
    metrics.queue_waiting.set(mails)
    return metrics


def test_one_worker_s_metrics_are_what_they_were() -> None:
    own = busy(3, code="552").exposition()
    assert samples(Exposition(own).render()) == samples(own)


def test_metrics_are_sums_but_for_what_all_say_of_one_thing() -> None:
    merged = Exposition(busy(3, code="552").exposition())
    merged.add(busy(40, code="552").exposition())
    merged.add(busy(500, code="451").exposition())
    found = samples(merged.render())
    assert found["elemta_messages_received_total"] == 543 == merged.total("elemta_messages_received_total")
    assert found["elemta_messages_refused_total[('code', '552')]"] == 43
    assert found["elemta_messages_refused_total[('code', '451')]"] == 500
    assert found["elemta_connections_active"] == 543
    assert found["elemta_connection_duration_seconds_bucket[('le', '10.0')]"] == 1
    assert found["elemta_connection_duration_seconds_bucket[('le', '+Inf')]"] == 3
    assert found["elemta_connection_duration_seconds_sum"] == 543
    assert found["elemta_queue_size[('queue_type', 'deferred')]"] == 3
    assert found["elemta_queue_oldest_due_seconds"] == 500


def test_when_a_counter_began_is_its_oldest_worker_s() -> None:
    first, second = Metrics(), Metrics()
    merged = Exposition(second.exposition())
    merged.add(first.exposition())
    name = "elemta_connections_created"
    assert merge_of(name) is Merge.LEAST
    assert samples(merged.render())[name] == samples(first.exposition())[name]


@define
class Answers:
    """Siblings that say what they are told to."""

    readyz: Mapping[int, bytes | None] = field(factory=dict)
    metrics: Mapping[int, bytes | None] = field(factory=dict)
    number: int = 1

    async def ask(self, page: str) -> Mapping[int, bytes | None]:
        return {"/readyz": self.readyz, "/metrics": self.metrics}[page]


def ready(**reasons: str) -> bytes:
    checks = {name: {"ok": not reason, "reason": reason} for name, reason in reasons.items()}
    return orjson.dumps({"ready": not any(reasons.values()), "checks": checks})


async def test_ready_when_one_of_them_is() -> None:
    desk = Desk()
    desk.health.found = {"store": "the store fails", "listeners": ""}
    siblings = Answers(readyz={2: ready(store="", listeners=""), 3: None, 4: b'{"checks": {"store": 5}}'})
    async with asking(public_app(attrs.evolve(desk.control, siblings=siblings), hosts=())) as client:
        answer = await client.get("/readyz")
    says = answer.json()
    assert (answer.status_code, says["ready"]) == (200, True)
    assert says["checks"] == {"store": {"ok": True, "reason": ""}, "listeners": {"ok": True, "reason": ""}}
    away = "does not answer: it is being started again, or it hangs"
    assert says["workers"] == {
        "1": {"ready": False, "reason": "the store fails"},
        "2": {"ready": True, "reason": ""},
        "3": {"ready": False, "reason": away},
        "4": {"ready": False, "reason": away},
    }


async def test_not_ready_when_none_is() -> None:
    desk = Desk()
    desk.health.found = {"store": "the store fails"}
    siblings = Answers(readyz={2: None, 3: ready(store="fails as well")})
    async with asking(public_app(attrs.evolve(desk.control, siblings=siblings), hosts=())) as client:
        answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    assert answer.json()["checks"] == {"store": {"ok": False, "reason": "the store fails"}}


async def test_metrics_name_a_worker_that_does_not_answer() -> None:
    desk = Desk()
    desk.metrics.messages_received.inc(2)
    siblings = Answers(metrics={2: busy(40, code="552").exposition(), 3: None})
    async with asking(public_app(attrs.evolve(desk.control, siblings=siblings), hosts=())) as client:
        found = samples((await client.get("/metrics")).content)
    assert found["elemta_messages_received_total"] == 42
    up = {key: value for key, value in found.items() if key.startswith("elemta_workers_up")}
    assert up == {f"elemta_workers_up[('worker', '{number}')]": float(number != 3) for number in (1, 2, 3)}


async def test_the_operators_pages_speak_for_all() -> None:
    desk = Desk()
    identity = attrs.evolve(desk.control.identity, processes=2)
    siblings = Answers(readyz={2: None}, metrics={2: busy(40, code="552").exposition()})
    control = attrs.evolve(desk.control, siblings=siblings, identity=identity)
    async with asking(control_app(control)) as client:
        status = (await client.get(f"{PREFIX}/status")).json()
        stats = (await client.get(f"{PREFIX}/queue/stats")).json()
    assert status["processes"] == 2
    assert {number: says["ready"] for number, says in status["workers"].items()} == {"1": True, "2": False}
    assert stats["total_processed"] == 40


async def test_one_process_says_nothing_of_workers() -> None:
    async with asking(Desk().app) as client:
        status = (await client.get(f"{PREFIX}/status")).json()
        metrics = (await client.get("/metrics")).text
    assert status["processes"] == 1
    assert "workers" not in status
    assert "elemta_workers_up" not in metrics


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_a_sibling_is_asked_for_itself_alone(path: str) -> None:
    desk = Desk()
    await desk.add()
    control = attrs.evolve(desk.control, siblings=Answers())
    async with asking(sibling_app(control)) as client:
        answer = await client.get(path)
        assert (await client.get(f"{PREFIX}/status")).status_code == 404
    assert answer.status_code == 200
    assert "workers" not in answer.text
    assert desk.counted == 0, "the one who asks counts the queue itself"
