"""Names and passwords through the one door: the examples of RFC 4013, what is refused, what two preparations change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.auth.base import MAX_NAME_OCTETS
from elemta.auth.sasl.preparation import MAX_PASSWORD_OCTETS, Unfit, prepare_name, prepare_password, saslprep

#: RFC 4013 §3.
EXAMPLES = [("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX")]
EMOJI = "\N{PILE OF POO}\N{GRINNING FACE}"


@pytest.mark.parametrize(("text", "prepared"), EXAMPLES)
def test_the_examples_of_the_rfc(text: str, prepared: str) -> None:
    assert saslprep(text) == prepared
    assert prepare_password(text) == prepared.encode()
    assert prepare_name(text) == prepared.lower()


def test_two_ways_to_type_a_letter_are_one() -> None:
    assert prepare_name("mu\u0308ller") == prepare_name("m\u00fcller".encode()) == "m\u00fcller"
    assert prepare_password("mu\u0308ller") == prepare_password(b"m\xc3\xbcller")


def test_only_ascii_letters_lose_their_case() -> None:
    assert prepare_name("ALICE@Example.COM") == "alice@example.com"
    assert prepare_name("\u00c4") == "\u00c4"
    assert prepare_password("Secret") == b"Secret"


def test_what_unicode_3_2_did_not_know_passes() -> None:
    assert prepare_password(EMOJI) == EMOJI.encode()
    assert prepare_name(EMOJI) == EMOJI


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\u06271", id="bidi, RFC 4013 §3"),
        pytest.param("a\u0627b", id="bidi in the midst"),
        pytest.param("\u0627a\u0627", id="left to right within right to left"),
        pytest.param("a\ue000", id="private use"),
        pytest.param("a\ufffd", id="replacement character"),
        pytest.param("a\u2028b", id="line separator"),
    ],
)
def test_what_saslprep_forbids_is_no_name_but_may_be_a_password(text: str) -> None:
    with pytest.raises(Unfit):
        prepare_name(text)
    assert prepare_password(text) == text.encode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        b"",
        "a\0b",
        "a\r\nb",
        "a\tb",
        "\x07",
        "a\x7f",
        "a\x85b",
        b"\xff",
        b"\xc3",
        "\ud800",
        "\u00ad",
        "x" * (MAX_PASSWORD_OCTETS + 1),
        "\u00fc" * (MAX_PASSWORD_OCTETS // 2 + 1),
        "\ufdfa" * (MAX_PASSWORD_OCTETS // 3),
    ],
)
def test_what_is_neither_a_name_nor_a_password(text: str | bytes) -> None:
    with pytest.raises(Unfit):
        prepare_name(text)
    with pytest.raises(Unfit):
        prepare_password(text)


def test_the_bounds_are_in_octets() -> None:
    assert len(prepare_name("\u00fc" * (MAX_NAME_OCTETS // 2))) == MAX_NAME_OCTETS // 2
    with pytest.raises(Unfit, match="320 octets"):
        prepare_name("\u00fc" * (MAX_NAME_OCTETS // 2) + "x")
    assert len(prepare_password(b"x" * MAX_PASSWORD_OCTETS)) == MAX_PASSWORD_OCTETS


def test_the_refusal_repeats_nothing() -> None:
    with pytest.raises(Unfit) as refused:
        prepare_password("hunter2\0")
    assert "hunter2" not in str(refused.value)


@given(st.text() | st.binary())
def test_nothing_raises_but_unfit_and_preparing_twice_changes_nothing(text: str | bytes) -> None:
    for prepare in (prepare_name, prepare_password):
        try:
            once = prepare(text)
        except Unfit:
            continue
        assert prepare(once) == once
