"""What follows from a score, and how it is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.plugins.api import AddHeader, Annotate, Continue, Quarantine, Reject, RemoveHeader
from elemta.plugins.fields import HeaderFields
from elemta.plugins.scanners.policy import MAX_SYMBOLS, Finding, Step, Thresholds, points, removals, tags, verdict

SPAM = Finding("spamassassin", True, 7.12, 5.0, ("GTUBE", "NO_RECEIVED"))


@pytest.mark.parametrize(
    ("thresholds", "score", "said", "step"),
    [
        # The filter's own opinion counts where no score is named.
        (Thresholds(), 99.0, False, Step.PASS),
        (Thresholds(), -1.0, True, Step.TAG),
        (Thresholds(reject_spam=True), -1.0, True, Step.REJECT),
        (Thresholds(reject_spam=True), 99.0, False, Step.PASS),
        # A score of ours counts more than its opinion, and is reached when it is equal.
        (Thresholds(tag=5.0), 4.99, True, Step.PASS),
        (Thresholds(tag=5.0), 5.0, False, Step.TAG),
        (Thresholds(tag=0.0), 0.0, False, Step.TAG),
        (Thresholds(tag=5.0, reject_spam=True), 5.0, False, Step.REJECT),
        (Thresholds(tag=5.0, quarantine=7.0, reject=10.0), 6.9, False, Step.TAG),
        (Thresholds(tag=5.0, quarantine=7.0, reject=10.0), 7.0, False, Step.QUARANTINE),
        (Thresholds(tag=5.0, quarantine=7.0, reject=10.0), 10.0, False, Step.REJECT),
        (Thresholds(quarantine=7.0), 7.0, False, Step.QUARANTINE),
        (Thresholds(reject=10.0), 9.9, True, Step.TAG),
    ],
)
def test_steps(thresholds: Thresholds, score: float, said: bool, step: Step) -> None:
    assert thresholds.step(score, said=said) is step


@given(st.floats(-100, 100), st.floats(-100, 100), st.booleans())
def test_a_higher_score_never_helps(one: float, other: float, said: bool) -> None:
    thresholds = Thresholds(5.0, 8.0, 10.0)
    order = list(Step)
    low, high = (order.index(thresholds.step(score, said=said)) for score in sorted((one, other)))
    assert low <= high


def test_whether_any_score_is_named() -> None:
    assert not Thresholds(reject_spam=True).is_set
    assert Thresholds(tag=0.0).is_set
    assert Thresholds(quarantine=0.0).is_set
    assert Thresholds(reject=0.0).is_set


def test_spam_is_tagged() -> None:
    assert verdict(SPAM, Step.TAG) == Continue(
        (
            AddHeader("X-Spam-Status", "Yes, score=7.1 required=5.0 tests=GTUBE,NO_RECEIVED"),
            AddHeader("X-Spam-Level", "*******"),
            AddHeader("X-Spam-Score", "7.1"),
            AddHeader("X-Spam-Flag", "YES"),
            Annotate("spamassassin", "spam, score 7.1 of 5.0: GTUBE NO_RECEIVED"),
        ),
        7.12,
    )


def test_what_is_no_spam_has_no_flag() -> None:
    clean = Finding("rspamd", False, -0.04, None)
    assert tags(clean) == (
        AddHeader("X-Spam-Status", "No, score=0.0 tests=none"),
        AddHeader("X-Spam-Score", "0.0"),
        Annotate("rspamd", "no spam, score 0.0: no rule met"),
    )


def test_harder_verdicts() -> None:
    assert verdict(SPAM, Step.REJECT) == Reject("refused as spam", 554, "5.7.1", 7.12)
    held = verdict(SPAM, Step.QUARANTINE, changes=(RemoveHeader("X-Other"),))
    assert held == Quarantine("spamassassin: score 7.1", (*tags(SPAM), RemoveHeader("X-Other")), 7.12)


def test_many_rules_are_folded() -> None:
    names = tuple(f"RULE_NUMBER_{number}" for number in range(40))
    status = tags(Finding("x", True, 9999.0, 5.0, names))[0]
    assert isinstance(status, AddHeader)
    assert max(len(line) for line in (b"X-Spam-Status: " + status.value).split(b"\r\n")) <= 78
    assert status.value.replace(b"\r\n\t", b"") == b"Yes, score=9999.0 required=5.0 tests=" + ",".join(names).encode()


def test_not_more_rules_are_named_than_can_be_read() -> None:
    names = tuple(f"R{number}" for number in range(1000))
    status, *_, note = tags(Finding("x", True, 9.0, 5.0, names))
    assert isinstance(status, AddHeader)
    assert isinstance(note, Annotate)
    assert status.value.count(b",") == MAX_SYMBOLS  # one stands before the score
    assert note.value.endswith(f" R{MAX_SYMBOLS - 1}")


@given(st.lists(st.text(max_size=80), max_size=300), st.floats(-1e6, 1e6))
def test_hostile_names_make_no_broken_field(names: list[str], score: float) -> None:
    for change in tags(Finding("x", True, score, 5.0, tuple(names))):
        if isinstance(change, AddHeader):
            assert change.value.isascii()
            assert max(map(len, change.value.split(b"\r\n"))) <= 78


def test_forged_fields_go() -> None:
    header = HeaderFields.parse(
        b"X-Spam-Flag: NO\r\nSubject: x\r\nx-spam-status: No\r\nX-Spam-Flag: NO\r\nX-Spammer: y\r\n"
    )
    assert removals(header) == (RemoveHeader("X-Spam-Flag"), RemoveHeader("X-Spam-Status"))
    assert removals(HeaderFields.parse(b"Subject: x\r\n")) == ()


@pytest.mark.parametrize(("score", "text"), [(5.0, "5.0"), (-0.01, "0.0"), (1000.04, "1000.0"), (-2.36, "-2.4")])
def test_points(score: float, text: str) -> None:
    assert points(score) == text
