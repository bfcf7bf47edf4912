"""What of another configuration a running server takes over."""

import attrs
import pytest
from attrs import evolve

from elemta.config.reload import AT_START, PARTS_AT_START, take_over
from elemta.config.sections import Config, LimitsSection, RouteSection, TimeoutsSection, TransportName

RUNNING = Config(hostname="mx.example.com")
ROUTE = RouteSection(domain="*", transport=TransportName.DISCARD)


def test_what_is_named_exists() -> None:
    sections = {field.name: field.type for field in attrs.fields(Config)}
    assert sections.keys() >= AT_START
    for section, parts in PARTS_AT_START.items():
        assert {field.name for field in attrs.fields(type(getattr(RUNNING, section)))} >= parts


def test_the_same_changes_nothing() -> None:
    found = take_over(RUNNING, Config(hostname="mx.example.com"))
    assert found.config == RUNNING
    assert (found.changed, found.at_start) == ([], [])


@pytest.mark.parametrize(
    ("wanted", "held", "changed", "at_start"),
    [
        (evolve(RUNNING, max_size=1000), evolve(RUNNING, max_size=1000), ["max_size"], []),
        (evolve(RUNNING, hostname="other.example.com"), RUNNING, [], ["hostname"]),
        (
            evolve(RUNNING, max_workers=7, routes=(ROUTE,)),
            evolve(RUNNING, routes=(ROUTE,)),
            ["routes"],
            ["max_workers"],
        ),
        (
            evolve(RUNNING, limits=LimitsSection(max_errors=3, message_memory=10_000_000)),
            evolve(RUNNING, limits=LimitsSection(max_errors=3)),
            ["limits"],
            ["limits.message_memory"],
        ),
        (
            evolve(RUNNING, limits=LimitsSection(message_memory=10_000_000)),
            RUNNING,
            [],
            ["limits.message_memory"],
        ),
        (
            evolve(RUNNING, timeouts=TimeoutsSection(shutdown_timeout=3)),
            evolve(RUNNING, timeouts=TimeoutsSection(shutdown_timeout=3)),
            ["timeouts"],
            [],
        ),
    ],
)
def test_what_can_be_taken_over_is(wanted: Config, held: Config, changed: list[str], at_start: list[str]) -> None:
    found = take_over(RUNNING, wanted)
    assert found.config == held
    assert (found.changed, found.at_start) == (changed, at_start)
    assert take_over(found.config, wanted).at_start == at_start, "it is said each time, as long as it is so"
