"""Which listener takes the mail of this machine's own programs."""

import pytest

from elemta.cli.submission_point import NoPoint, point_of
from elemta.config.sections import Config, ListenerSection
from elemta.config.tls import TlsMode

BALANCED = ListenerSection(address="127.0.0.1:2525", proxy_protocol=("127.0.0.1",))
IMPLICIT = ListenerSection(address=":465", tls=TlsMode.IMPLICIT)
SUBMISSION = ListenerSection(address=":587", tls=TlsMode.STARTTLS, auth=True, auth_required=True)


@pytest.mark.parametrize(
    ("listeners", "address"),
    [
        ((), "127.0.0.1:2525"),
        ((ListenerSection(address="[::]:25"),), "[::1]:25"),
        ((ListenerSection(address="192.0.2.1:25"), ListenerSection(address=":2500")), "127.0.0.1:2500"),
        ((IMPLICIT, SUBMISSION, ListenerSection(address="unix:/run/elemta.sock")), "unix:/run/elemta.sock"),
        ((BALANCED, ListenerSection(address=":25")), "127.0.0.1:25"),
    ],
)
def test_the_listener_that_takes_it(listeners: tuple[ListenerSection, ...], address: str) -> None:
    assert point_of(Config(listeners=listeners)).address == address


@pytest.mark.parametrize("listener", [BALANCED, IMPLICIT, SUBMISSION])
def test_a_listener_that_would_not_take_it_is_none(listener: ListenerSection) -> None:
    with pytest.raises(NoPoint, match="no listener takes mail"):
        point_of(Config(listeners=(listener,)))
