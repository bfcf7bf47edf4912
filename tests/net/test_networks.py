"""What an address counts for."""

import pytest

from elemta.net.networks import is_local, network_of


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "/run/elemta.sock", ""])
def test_what_never_leaves_this_machine(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize("host", ["192.0.2.1", "10.0.0.1", "::", "fe80::1", "::ffff:192.0.2.1", "localhost", "0.0.0.0"])
def test_what_does(host: str) -> None:
    assert not is_local(host)


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.77", "192.0.2"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("/run/elemta.sock", "/run/elemta.sock"),
    ],
)
def test_one_customer_counts_as_one(host: str, network: str) -> None:
    assert network_of(host) == network
