"""How many handshakes one address may begin."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.tls import rate
from elemta.tls.rate import BURST_SECONDS, HandshakeRate, bucket_of

HOST = "192.0.2.1"


def taken(handshakes: HandshakeRate, host: str, now: float, tries: int) -> int:
    return sum(handshakes.take(host, now) for _ in range(tries))


def test_a_burst_then_the_rate() -> None:
    handshakes = HandshakeRate(20)
    assert taken(handshakes, HOST, 0.0, 500) == 20 * BURST_SECONDS
    assert taken(handshakes, HOST, 0.5, 500) == 10
    assert taken(handshakes, HOST, 1.0, 500) == 10
    assert taken(handshakes, HOST, 1000.0, 500) == 20 * BURST_SECONDS


def test_addresses_do_not_share_but_ipv6_networks_do() -> None:
    handshakes = HandshakeRate(1)
    assert taken(handshakes, HOST, 0.0, 100) == 5
    assert taken(handshakes, "192.0.2.2", 0.0, 100) == 5
    assert taken(handshakes, "2001:db8::1", 0.0, 100) == 5
    assert taken(handshakes, "2001:db8::ffff", 0.0, 100) == 0
    assert taken(handshakes, "2001:db8:0:1::1", 0.0, 100) == 5
    assert bucket_of("/run/elemta.sock") == "/run/elemta.sock"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "MAX_ADDRESSES", 10)
    handshakes = HandshakeRate(1)
    assert taken(handshakes, HOST, 0.0, 100) == 5
    for last in range(2, 11):
        assert handshakes.take(f"192.0.2.{last}", 0.0)
    assert not handshakes.take(HOST, 0.0)  # it came again, so it is the latest
    assert handshakes.take("192.0.2.99", 0.0)
    assert handshakes.remembered == 10
    assert taken(handshakes, "192.0.2.2", 0.0, 100) == 5  # the one that was forgotten


@given(st.lists(st.floats(0, 10), max_size=300), st.integers(1, 20))
def test_never_more_than_the_burst_and_the_rate(pauses: list[float], each_second: int) -> None:
    handshakes = HandshakeRate(each_second)
    now = 0.0
    times = []
    for pause in pauses:
        now += pause
        if handshakes.take(HOST, now):
            times.append(now)
    for start, begin in enumerate(times):
        for end in range(start, len(times)):
            assert end - start + 1 <= each_second * (BURST_SECONDS + times[end] - begin) + 1e-6
