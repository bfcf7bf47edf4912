"""The invariants of TLS see what they are for: a sound history is made unsound, one thing at a time."""

from collections.abc import Callable

import pytest
from attrs import evolve

from elemta.config.sections import RouteTls
from elemta.mail.reply import Reply
from elemta.simulation.clients import ClientScript, TlsScript
from elemta.simulation.keeper import memory_keeper
from elemta.simulation.personality import INJECTED_WORDS, Handshake, Personality
from elemta.simulation.record import Answer, Record, Submitted
from elemta.simulation.scenario import SENDER_ADDRESS, SENDER_DOMAIN, Scenario
from elemta.simulation.world import simulate
from elemta.testing.invariants import broken
from tests.simulation.scenes import HOST, mail, scene
from tests.simulation.test_world_tls import encrypted_config, route

SOUND = Personality(starttls=(Handshake.WORKS,), requiretls=True)
SCENE = scene(
    clients=(ClientScript("203.0.113.9", 1.0, (mail("a", require_tls=True), mail("b")), tls=TlsScript()),),
    config=encrypted_config(routes=(route(RouteTls.VERIFY), route(RouteTls.MAY, SENDER_DOMAIN))),
    hosts={SENDER_ADDRESS: SOUND, HOST: SOUND},
)


@pytest.fixture
def world() -> tuple[Scenario, Record]:
    return SCENE, simulate(SCENE, memory_keeper())


def test_a_sound_history_is_sound(world: tuple[Scenario, Record]) -> None:
    assert not broken(*world)


def heard(record: Record, **changes: bool) -> None:
    record.heard = [evolve(each, **changes) for each in record.heard]  # type: ignore[arg-type]  # flags by name


def speak_in_clear(record: Record) -> None:
    heard(record, encrypted=False, certified=False, requiretls=False)


def believe_any_certificate(record: Record) -> None:
    heard(record, certified=False)


def pass_it_to_a_host_without_a_promise(record: Record) -> None:
    heard(record, requiretls=False)


def forget_to_ask(record: Record) -> None:
    heard(record, asked=False)


def believe_what_stood_before_tls(record: Record) -> None:
    for passage in record.passages.values():
        passage.attempts = tuple(evolve(each, reply=Reply(250, "2.0.0", INJECTED_WORDS)) for each in passage.attempts)


def take_what_stood_before_tls(record: Record) -> None:
    record.submitted.append(Submitted(1.0, "b", "b@senders.test", (), Answer.INJECTED))


def fail_a_handshake(record: Record) -> None:
    record.shaken = [evolve(each, worked=False) for each in record.shaken]


def wait_for_ever(record: Record) -> None:
    record.shaken = [evolve(each, ended=each.began + 40) for each in record.shaken]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (speak_in_clear, "in clear, and its route asks for verify"),
        (speak_in_clear, "in clear, though its STARTTLS works"),
        (believe_any_certificate, "whose certificate is not good, and its route asks for verify"),
        (pass_it_to_a_host_without_a_promise, "which did not promise REQUIRETLS"),
        (forget_to_ask, "and not that it requires TLS"),
        (believe_what_stood_before_tls, "was answered before TLS"),
        (take_what_stood_before_tls, "was said before TLS, and is in the queue"),
        (fail_a_handshake, "failed, and nothing was wrong"),
        (wait_for_ever, "lasted 40"),
    ],
)
def test_an_unsound_one_is_not(spoil: Callable[[Record], None], words: str, world: tuple[Scenario, Record]) -> None:
    scenario, record = world
    spoil(record)
    assert any(words in sentence for sentence in broken(scenario, record)), broken(scenario, record)


def test_a_slip_is_told(world: tuple[Scenario, Record]) -> None:
    scenario, record = world
    record.slips.append("at 1.000 a host heard MAIL in clear after STARTTLS")
    assert "at 1.000 a host heard MAIL in clear after STARTTLS" in broken(scenario, record)


def test_a_route_with_none_stays_in_clear(world: tuple[Scenario, Record]) -> None:
    _, record = world
    asks_none = evolve(SCENE, config=encrypted_config(routes=(route(RouteTls.NONE),)))
    assert any("over TLS, and its route asks for none" in sentence for sentence in broken(asks_none, record))
