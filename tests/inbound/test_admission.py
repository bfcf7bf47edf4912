"""Bounds on connections, to the last one."""

from elemta.config.sections import LimitsSection
from elemta.inbound.admission import TOO_MANY, TOO_MANY_FROM_YOU, Admission
from elemta.net.networks import network_of


def test_each_bound_refuses_the_one_beyond_it() -> None:
    admission = Admission(
        LimitsSection(max_connections=4, max_connections_per_address=2, max_connections_per_network=3)
    )
    assert admission.admit("192.0.2.1") is None
    assert admission.admit("192.0.2.1") is None
    assert admission.admit("192.0.2.1") is TOO_MANY_FROM_YOU
    assert admission.admit("192.0.2.2") is None
    assert admission.admit("192.0.2.3") is TOO_MANY_FROM_YOU
    assert admission.admit("198.51.100.1") is None
    assert admission.admit("203.0.113.1") is TOO_MANY
    assert admission.open == 4


def test_who_leaves_makes_room_and_is_forgotten() -> None:
    admission = Admission(
        LimitsSection(max_connections=9, max_connections_per_address=1, max_connections_per_network=1)
    )
    for _ in range(3):
        assert admission.admit("2001:db8::1") is None
        assert admission.admit("2001:db8::2") is TOO_MANY_FROM_YOU
        admission.leave("2001:db8::1")
    assert admission.open == 0
    assert admission.counted == 0


def test_networks() -> None:
    assert network_of("192.0.2.77") == "192.0.2"
    assert network_of("2001:db8:1:2:3:4:5:6") == "2001:db8:1:2::/64"
    assert network_of("/run/smtp") == "/run/smtp"
