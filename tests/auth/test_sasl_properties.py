"""What no client can do to any mechanism, whatever it sends."""

import re

from hypothesis import given
from hypothesis import strategies as st

from elemta.auth.sasl.base import (
    Authenticated,
    Challenge,
    CheckPassword,
    CheckToken,
    Circumstances,
    NeedVerifier,
    Outcome,
    Refused,
)
from elemta.auth.sasl.mechanisms import MECHANISMS, begin
from elemta.auth.scram import MIN_ITERATIONS, make_verifier
from elemta.config import auth as config

CIRCUMSTANCES = Circumstances(nonce="abc", binding=b"x" * 32, offers_plus=True, secret=b"secret", scope="mail")
VERIFIER = make_verifier("pencil", salt=b"0" * 16, iterations=MIN_ITERATIONS)
#: Longer than any exchange of ours.
STEPS = 6

PIECES = (
    *(b"\0", b"\1", b",", b"=", b"\r\n", b"\xff", "\u06271".encode(), "\U0001f4a9".encode()),
    *(b"n,,", b"y,,", b"p=tls-server-end-point,,", b"n=user", b"r=abc", b"c=biws", b"p=" + b"A" * 43 + b"="),
    *(b"user=a", b"auth=Bearer abc", b"user", b"secret"),
)
pieces = st.sampled_from(PIECES)
messages = st.binary(max_size=200) | st.lists(pieces, max_size=12).map(b"".join)


@given(st.sampled_from(sorted(MECHANISMS)), st.none() | messages, st.lists(messages, min_size=STEPS, max_size=STEPS))
def test_nothing_that_a_client_sends_raises_or_goes_on_for_ever(
    mechanism: str, first: bytes | None, rest: list[bytes]
) -> None:
    exchange = begin(mechanism, CIRCUMSTANCES)
    outcome: Outcome = exchange.step(first)
    for message in rest:
        match outcome:
            case NeedVerifier():
                outcome = exchange.known(VERIFIER)
            case CheckToken():
                outcome = exchange.deny()
            case Challenge():
                outcome = exchange.step(message)
            case _:
                break
    assert isinstance(outcome, CheckPassword | Refused), "no SCRAM without a proof, no end without a decision"
    assert not isinstance(outcome, Authenticated)
    if isinstance(outcome, CheckPassword):
        assert not re.search(r"[\0-\x1f\x7f]", outcome.user + outcome.authzid + outcome.password.decode())
    else:
        assert outcome.reason.isprintable()


def test_every_mechanism_of_the_configuration_is_one() -> None:
    assert set(config.MECHANISMS) == set(MECHANISMS)
