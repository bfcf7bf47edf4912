"""Verifiers of SCRAM-SHA-256: making, reading, checking them."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.auth.sasl.preparation import Unfit
from elemta.auth.scram import (
    MAX_ITERATIONS,
    MIN_ITERATIONS,
    SCRAM_ITERATIONS,
    UnfitVerifier,
    Verifier,
    check_verifier,
    fake_verifier,
    make_verifier,
    parse_verifier,
)

#: Written by PostgreSQL 15 for the password `correct horse ü`: SELECT rolpassword FROM pg_authid.
POSTGRESQL = (
    "SCRAM-SHA-256$4096:2PNPYmvJmQLlr2iRA17uZQ==$WPmIh9FjZu/wHlT/F3NpXvYLaZmibkERXQpW9aFBMzE="
    ":WJ+yDmXchvBbgGTOdnfVBCCepHKGFfquEajHtxIzyC8="
)
KEY = base64.b64encode(bytes(32)).decode()


def test_a_verifier_of_postgresql() -> None:
    verifier = parse_verifier(POSTGRESQL)
    assert verifier.text() == POSTGRESQL
    assert check_verifier("correct horse \u00fc", verifier)
    assert check_verifier("correct horse u\u0308", verifier), "prepared"
    assert not check_verifier("correct horse", verifier)
    assert make_verifier("correct horse \u00fc", salt=verifier.salt, iterations=verifier.iterations) == verifier


def test_a_new_verifier() -> None:
    verifier = make_verifier("pencil", salt=b"0123456789abcdef")
    assert verifier.iterations == SCRAM_ITERATIONS
    assert parse_verifier(verifier.text()) == verifier
    with pytest.raises(Unfit):
        make_verifier("a\0b", salt=b"0123456789abcdef")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pencil",
        POSTGRESQL + "\n",
        POSTGRESQL.replace("SHA-256", "SHA-1"),
        POSTGRESQL.replace("4096", "04096"),
        POSTGRESQL.replace("4096", "-1"),
        POSTGRESQL.replace("4096", str(MIN_ITERATIONS - 1)),
        POSTGRESQL.replace("4096", str(MAX_ITERATIONS + 1)),
        POSTGRESQL.replace("4096", "9" * 400),
        POSTGRESQL.replace("2PNP", "2PN"),
        POSTGRESQL.replace("WPmI", "WPm"),
        f"SCRAM-SHA-256$4096:$${KEY}:{KEY}",
    ],
)
def test_what_is_no_verifier(text: str) -> None:
    with pytest.raises(UnfitVerifier) as unfit:
        parse_verifier(text)
    assert "2PNP" not in str(unfit.value)


@given(
    st.integers(MIN_ITERATIONS, MAX_ITERATIONS),
    st.binary(min_size=8, max_size=64),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
)
def test_what_is_written_is_read(iterations: int, salt: bytes, stored_key: bytes, server_key: bytes) -> None:
    verifier = Verifier(iterations, salt, stored_key, server_key)
    assert parse_verifier(verifier.text()) == verifier


@given(st.text())
def test_nothing_raises_but_unfit_verifier(text: str) -> None:
    with pytest.raises(UnfitVerifier):
        parse_verifier(text)


def test_a_fake_one_is_stable_and_its_own() -> None:
    fake = fake_verifier("Alice", b"secret")
    assert fake == fake_verifier("alice", b"secret")
    assert parse_verifier(fake.text()) == fake, "looks like a real one"
    assert fake.salt != fake_verifier("bob", b"secret").salt
    assert fake.salt != fake_verifier("alice", b"other").salt
    assert len({fake.stored_key, fake.server_key, fake.salt.ljust(32)}) == 3
