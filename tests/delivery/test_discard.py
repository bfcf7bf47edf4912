"""Discarding: everything is taken, unless the gate is closed."""

import pytest

from elemta.delivery.base import AttemptStopped
from elemta.delivery.discard import DiscardTransport
from elemta.mail.outcome import Delivered
from tests.delivery.jobs import attempt


async def test_every_recipient_is_delivered() -> None:
    tried = attempt("a@example.com", "b@example.com")
    outcomes = await DiscardTransport().deliver(tried.job)
    assert [type(outcome) for outcome in outcomes] == [Delivered, Delivered]
    assert tried.gate.asked == 1


async def test_a_closed_gate_stops_it() -> None:
    with pytest.raises(AttemptStopped):
        await DiscardTransport().deliver(attempt("a@example.com", opens=False).job)
