"""Who is told what, once, and as which mail."""

from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from elemta.mail.address import Address
from elemta.mail.dsn import Action
from elemta.mail.envelope import BodyType, Envelope, Notify, Recipient, Ret
from elemta.mail.outcome import Deferred, Delivered, Failed, Outcome, Peer
from elemta.mail.reply import Reply
from elemta.queue.bounce import (
    DELAY_REPORT_AFTER_SECONDS,
    RECIPIENTS_PER_REPORT,
    RETURNED_HEADER_OCTETS,
    RETURNED_MAIL_OCTETS,
    Bounce,
    Report,
    ReportPlan,
    build_bounce,
    original_octets,
    plan_reports,
)
from elemta.queue.schedule import Decision, RetryPolicy, Verdict, decide
from elemta.storage.records import INLINE_CONTENT_OCTETS, UNTRIED, ContentRef, QueuedMail

RECEIVED = 1_700_000_000.0
SOON = RECEIVED + 60
LATE = RECEIVED + DELAY_REPORT_AFTER_SECONDS
RETRIES = RetryPolicy((60, 300), max_retries=10)
ALICE = Address("alice", "example.com")
REPORT_ID = "R" * 22

PEER = Peer("mx.example.org", "192.0.2.7")
REFUSED = Failed(Reply(550, "5.1.1", "no such user"), PEER)
BUSY = Deferred(Reply(450, "4.2.1", "mailbox busy"), PEER)
LOST = Deferred(Reply(451, "4.4.2", "connection lost after the final dot"), PEER, uncertain=True)
RELAYED = Delivered(Reply(250, "2.0.0", "taken"), PEER)
PASSED_ON = evolve(RELAYED, relayed_dsn=True)
IN_MAILBOX = evolve(RELAYED, final=True)

HEADER = b"From: alice@example.com\r\nSubject: Hello\r\nMessage-ID: <1@example.com>\r\n"
CONTENT = HEADER + b"\r\nText.\r\n"


def queued(*recipients: Recipient, content: bytes = CONTENT, **envelope: Any) -> QueuedMail:
    return QueuedMail(
        id="M" * 22,
        origin_id="O" * 22,
        content=ContentRef("C" * 22, len(content), header_octets=content.find(b"\r\n\r\n") + 2),
        envelope=evolve(Envelope(ALICE, recipients), **envelope),
        progress=(UNTRIED,) * len(recipients),
        destination="example.org",
        received_at=RECEIVED,
        next_attempt_at=RECEIVED,
        expires_at=RECEIVED + 172_800,
    )


def to(name: str = "bob", notify: Notify | None = None) -> Recipient:
    return Recipient(Address(name, "example.org"), notify)


def plan(mail: QueuedMail, *outcomes: Outcome, now: float = SOON) -> ReportPlan:
    return plan_reports(mail, decide(mail, outcomes, policy=RETRIES, now=now, chance=0.5), now=now)


def written(mail: QueuedMail, report: Report, *, content: bytes = CONTENT) -> Bounce:
    return build_bounce(
        mail,
        report,
        original=content[: original_octets(mail, report)],
        hostname="mail.example.com",
        report_id=REPORT_ID,
        now=SOON,
    )


def parsed(bounce: Bounce) -> EmailMessage:
    return BytesParser(policy=policy.default).parsebytes(bounce.content)


def types(bounce: Bounce) -> list[str]:
    return [part.get_content_type() for part in parsed(bounce).iter_parts()]


S, F, D = Notify.SUCCESS, Notify.FAILURE, Notify.DELAY


@pytest.mark.parametrize(
    ("notify", "outcome", "now", "told"),
    [
        (None, REFUSED, SOON, Action.FAILED),
        (None, BUSY, LATE, None),
        (None, RELAYED, SOON, None),
        (None, IN_MAILBOX, SOON, None),
        (Notify.NEVER, REFUSED, SOON, None),
        (Notify.NEVER, BUSY, LATE, None),
        (Notify.NEVER, IN_MAILBOX, SOON, None),
        (F, REFUSED, SOON, Action.FAILED),
        (F, BUSY, LATE, None),
        (F, RELAYED, SOON, None),
        (S, REFUSED, SOON, None),
        (S, RELAYED, SOON, Action.RELAYED),
        (S, IN_MAILBOX, SOON, Action.DELIVERED),
        (S, PASSED_ON, SOON, None),
        (D, BUSY, LATE - 1, None),
        (D, BUSY, LATE, Action.DELAYED),
        (D, LOST, LATE, Action.DELAYED),
        (D, REFUSED, SOON, None),
        (S | F | D, REFUSED, LATE, Action.FAILED),
        (S | F | D, BUSY, LATE, Action.DELAYED),
        (S | F | D, RELAYED, LATE, Action.RELAYED),
    ],
)
def test_who_asked_is_told(notify: Notify | None, outcome: Outcome, now: float, told: Action | None) -> None:
    reports = plan(queued(to("bob", notify)), outcome, now=now).reports
    assert [report.action for report in reports] == ([] if told is None else [told])


@pytest.mark.parametrize("outcome", [REFUSED, BUSY, IN_MAILBOX])
def test_a_null_reverse_path_is_never_answered(outcome: Outcome) -> None:
    mail = queued(to("bob", S | F | D), reverse_path=None)
    planned = plan(mail, outcome, now=LATE)
    assert planned.reports == ()
    assert planned.silent == ((0,) if isinstance(outcome, Failed) else ())


def test_a_report_to_nobody_cannot_be_written() -> None:
    mail = queued(to(), reverse_path=None)
    with pytest.raises(ValueError, match="null reverse-path"):
        written(mail, Report(Action.FAILED, (Verdict(0, REFUSED),)))


def test_a_failure_that_nobody_wanted_to_hear_of_is_no_double_bounce() -> None:
    assert plan(queued(to("bob", Notify.NEVER)), REFUSED).silent == ()


def test_nobody_is_told_twice() -> None:
    mail = queued(to("bob", S | F | D), to("carol", S | F | D))
    first = plan(mail, REFUSED, BUSY, now=LATE)
    assert [report.action for report in first.reports] == [Action.FAILED, Action.DELAYED]
    assert [(entry.reported, entry.delay_reported) for entry in first.progress] == [(True, False), (False, True)]
    later = evolve(mail, progress=first.progress)
    second = plan(later, BUSY, now=LATE + 60)
    assert second.reports == ()
    assert second.progress[1].delay_reported
    last = plan(evolve(later, progress=second.progress), REFUSED, now=LATE + 120)
    assert [(report.action, [verdict.index for verdict in report.verdicts]) for report in last.reports] == [
        (Action.FAILED, [1])
    ]
    assert [(entry.reported, entry.delay_reported) for entry in last.progress] == [(True, False), (True, True)]


def test_a_recipient_that_was_reported_stays_reported() -> None:
    # An operator may send a failed mail on its way again; its sender has heard of it.
    mail = queued(to())
    mail = evolve(mail, progress=(evolve(UNTRIED, reported=True),))
    assert plan(mail, REFUSED).reports == ()


def test_each_thing_that_happened_has_its_report() -> None:
    everything = S | F | D
    mail = queued(*(to(name, everything) for name in "abcde"))
    planned = plan(mail, REFUSED, RELAYED, BUSY, IN_MAILBOX, REFUSED, now=LATE)
    assert {report.action: [verdict.index for verdict in report.verdicts] for report in planned.reports} == {
        Action.FAILED: [0, 4],
        Action.RELAYED: [1],
        Action.DELAYED: [2],
        Action.DELIVERED: [3],
    }


def test_many_recipients_fill_several_reports() -> None:
    count = 2 * RECIPIENTS_PER_REPORT + 1
    mail = queued(*(to(f"user{number}") for number in range(count)))
    reports = plan(mail, *[REFUSED] * count).reports
    assert [len(report.verdicts) for report in reports] == [RECIPIENTS_PER_REPORT, RECIPIENTS_PER_REPORT, 1]
    assert [verdict.index for report in reports for verdict in report.verdicts] == list(range(count))


OUTCOMES: tuple[Outcome, ...] = (REFUSED, BUSY, LOST, RELAYED, PASSED_ON, IN_MAILBOX)
NOTIFIES: tuple[Notify | None, ...] = (None, Notify.NEVER, F, S, D, S | F | D)


@given(st.lists(st.tuples(st.sampled_from(NOTIFIES), st.lists(st.sampled_from(OUTCOMES), min_size=1)), min_size=1))
def test_over_a_life_each_recipient_is_reported_once_at_most(
    lives: list[tuple[Notify | None, list[Outcome]]],
) -> None:
    mail = queued(*(to(f"user{number}", notify) for number, (notify, _) in enumerate(lives)))
    told: dict[int, list[Action]] = {index: [] for index in range(len(lives))}
    for step in range(max(len(outcomes) for _, outcomes in lives)):
        waiting = [index for index, entry in enumerate(mail.progress) if entry.status.value == "pending"]
        if not waiting:
            break
        outcomes = [lives[index][1][min(step, len(lives[index][1]) - 1)] for index in waiting]
        planned = plan(mail, *outcomes, now=LATE + step)
        for report in planned.reports:
            for verdict in report.verdicts:
                told[verdict.index].append(report.action)
        mail = evolve(mail, progress=planned.progress, attempts=mail.attempts + 1)
    for index, actions in told.items():
        final = [action for action in actions if action is not Action.DELAYED]
        assert len(final) <= 1
        assert actions.count(Action.DELAYED) <= 1
        assert not actions or lives[index][0] is not Notify.NEVER


def failure(mail: QueuedMail, outcome: Outcome = REFUSED) -> Report:
    (report,) = plan(mail, *[outcome] * len(mail.envelope.recipients)).reports
    return report


def test_a_report_goes_to_the_sender_from_nobody() -> None:
    mail = queued(to())
    bounce = written(mail, failure(mail))
    assert bounce.envelope == Envelope(
        reverse_path=None, recipients=(Recipient(ALICE, notify=Notify.NEVER),), body=BodyType.SEVEN_BIT
    )
    assert not bounce.eight_bit
    assert bounce.content[: bounce.header_octets].endswith(b"\r\n")
    assert bounce.content[bounce.header_octets :].startswith(b"\r\n")
    header = parsed(bounce)
    assert header["To"] == "alice@example.com"
    assert header["Auto-Submitted"] == "auto-replied"
    assert header["Message-ID"] == f"<{REPORT_ID}@mail.example.com>"
    assert header["In-Reply-To"] == "<1@example.com>"


def test_a_report_about_a_report_is_never_due() -> None:
    mail = queued(to())
    bounce = written(mail, failure(mail))
    again = evolve(mail, envelope=bounce.envelope)
    planned = plan(again, REFUSED)
    assert planned.reports == ()
    assert planned.silent == (0,)


@pytest.mark.parametrize(
    ("ret", "octets", "returned"),
    [
        (None, 5000, "text/rfc822-headers"),
        (Ret.HEADERS, 5000, "text/rfc822-headers"),
        (Ret.FULL, 5000, "message/rfc822"),
        (Ret.FULL, RETURNED_MAIL_OCTETS, "message/rfc822"),
        (Ret.FULL, RETURNED_MAIL_OCTETS + 1, "text/rfc822-headers"),
    ],
)
def test_as_much_is_returned_as_was_asked_for(ret: Ret | None, octets: int, returned: str) -> None:
    filler = b"x" * 70 + b"\r\n"
    content = (CONTENT + filler * (octets // len(filler)))[: octets - 2] + b"\r\n"
    mail = queued(to(), content=content, ret=ret)
    report = failure(mail)
    assert original_octets(mail, report) == (octets if returned == "message/rfc822" else len(HEADER))
    assert types(written(mail, report, content=content)) == ["text/plain", "message/delivery-status", returned]


def test_only_failures_return_a_whole_mail() -> None:
    mail = queued(to("bob", S), ret=Ret.FULL)
    report = failure(mail, IN_MAILBOX)
    assert original_octets(mail, report) == len(HEADER)


def test_a_mail_that_requires_tls_returns_its_header_alone_and_requires_tls_back() -> None:
    mail = queued(to(), ret=Ret.FULL, require_tls=True)
    bounce = written(mail, failure(mail))
    assert bounce.envelope.require_tls
    assert types(bounce)[-1] == "text/rfc822-headers"


def test_content_that_cannot_be_read_leaves_the_rest_of_the_report() -> None:
    mail = queued(to(), ret=Ret.FULL)
    bounce = written(mail, failure(mail), content=b"")
    assert types(bounce) == ["text/plain", "message/delivery-status"]


def test_a_mail_read_in_part_is_not_returned_as_if_it_were_whole() -> None:
    mail = queued(to(), ret=Ret.FULL)
    bounce = build_bounce(
        mail, failure(mail), original=CONTENT[:-4], hostname="mail.example.com", report_id=REPORT_ID, now=SOON
    )
    assert types(bounce)[-1] == "text/rfc822-headers"


def test_a_header_whose_length_is_unknown_is_looked_for() -> None:
    mail = queued(to(), content=CONTENT + b"x" * 20_000)
    mail = evolve(mail, content=evolve(mail.content, header_octets=0))
    report = failure(mail)
    assert original_octets(mail, report) == RETURNED_HEADER_OCTETS
    bounce = written(mail, report, content=CONTENT + b"x" * 20_000)
    assert b"Message-ID: <1@example.com>" in bounce.content
    assert b"xxxx" not in bounce.content


def test_a_long_header_is_cut_after_a_line() -> None:
    header = HEADER + b"".join(b"X-%05d: %s\r\n" % (number, b"y" * 60) for number in range(1000))
    mail = queued(to(), content=header + b"\r\n")
    bounce = build_bounce(
        mail, failure(mail), original=header, hostname="mail.example.com", report_id=REPORT_ID, now=SOON
    )
    assert len(bounce.content) < RETURNED_HEADER_OCTETS + 3000
    assert b"y" * 60 + b"\r\n\r\n--=_" in bounce.content


def test_an_eight_bit_mail_comes_back_as_such() -> None:
    content = HEADER + "\r\nGrüße\r\n".encode()
    mail = queued(to(), content=content, ret=Ret.FULL)
    bounce = written(mail, failure(mail), content=content)
    assert bounce.eight_bit
    assert bounce.envelope.body is BodyType.EIGHT_BIT_MIME
    assert not bounce.envelope.smtputf8


def test_addresses_outside_ascii_need_smtputf8() -> None:
    mail = queued(Recipient(Address("jürgen", "example.org")), smtputf8=True)
    bounce = written(mail, failure(mail))
    assert bounce.envelope.smtputf8
    assert bounce.envelope.body is BodyType.EIGHT_BIT_MIME
    assert "Final-Recipient: utf-8; jürgen@example.org".encode() in bounce.content


def test_the_report_shows_who_said_what_when() -> None:
    mail = queued(Recipient(Address("bob", "example.org"), F, "rfc822;bob@old.example"), envid="QQ314159")
    mail = evolve(mail, attempts=10)
    decision = decide(mail, [BUSY], policy=RETRIES, now=SOON, chance=0.5)
    (report,) = plan_reports(mail, decision, now=SOON).reports
    status = list(parsed(written(mail, report)).iter_parts())[1]
    about_mail, about_bob = status.iter_parts()
    assert dict(about_mail.items()) == {
        "Original-Envelope-Id": "QQ314159",
        "Reporting-MTA": "dns; mail.example.com",
        "Arrival-Date": "Tue, 14 Nov 2023 22:13:20 +0000",
        "X-Elemta-Queue-Id": "O" * 22,
    }
    assert dict(about_bob.items()) == {
        "Original-Recipient": "rfc822; bob@old.example",
        "Final-Recipient": "rfc822; bob@example.org",
        "Action": "failed",
        "Status": "5.4.7",
        "Remote-MTA": "dns; mx.example.org",
        "Diagnostic-Code": "smtp; 450 4.2.1 mailbox busy",
        "Last-Attempt-Date": "Tue, 14 Nov 2023 22:14:20 +0000",
    }


def test_a_delay_says_until_when_it_is_tried() -> None:
    mail = queued(to("bob", D))
    (report,) = plan(mail, BUSY, now=LATE).reports
    bounce = written(mail, report)
    assert bounce.content.count(b"Thu, 16 Nov 2023 22:13:20 +0000") == 2
    assert b"Action: delayed\r\nStatus: 4.2.1\r\n" in bounce.content
    assert b"\r\nWill-Retry-Until: Thu, 16 Nov 2023 22:13:20 +0000\r\n" in bounce.content


def test_an_uncertain_end_says_that_the_mail_may_have_arrived() -> None:
    mail = queued(to())
    decision = decide(mail, [LOST], policy=RETRIES, now=mail.expires_at, chance=0.5)
    (report,) = plan_reports(mail, decision, now=mail.expires_at).reports
    text = b" ".join(written(mail, report).content.split())
    assert b"it may have arrived" in text


def test_a_boundary_that_the_mail_holds_is_not_used() -> None:
    content = HEADER + f"X-Trap: =_{REPORT_ID}_0\r\nX-Trap: =_{REPORT_ID}_1\r\n\r\n".encode()
    mail = queued(to(), content=content)
    bounce = written(mail, failure(mail), content=content)
    assert f'boundary="=_{REPORT_ID}_2"'.encode() in bounce.content
    assert types(bounce)[-1] == "text/rfc822-headers"


@pytest.mark.parametrize("smtputf8", [False, True])
def test_the_largest_report_travels_with_its_change(smtputf8: bool) -> None:
    letter = "é" if smtputf8 else "a"
    address = Address(letter * 1000, "d" * 1000 + ".example")
    recipient = Recipient(address, F, "rfc822;" + letter * 1000)
    words = Reply(550, "5.1.1", ("ü" * 3000, "\N{PILE OF POO}" * 3000))
    peer = Peer("ü" * 1000, "2001:db8::" + "1" * 1000)
    header = HEADER + b"X: \xff\xff\xff\xff\r\n" * 9000
    mail = queued(*[recipient] * RECIPIENTS_PER_REPORT, content=header + b"\r\n", smtputf8=smtputf8, ret=Ret.FULL)
    mail = evolve(mail, envelope=evolve(mail.envelope, envid="e" * 9999, reverse_path=address))
    bounce = written(mail, failure(mail, Failed(words, peer)), content=header + b"\r\n")
    assert len(bounce.content) <= INLINE_CONTENT_OCTETS
    assert bounce.content.count(b"\r\nAction: failed\r\n") == RECIPIENTS_PER_REPORT


def test_too_long_words_are_shortened_before_the_header_is_left_out() -> None:
    recipients = [Recipient(Address("a" * 250 + str(number), "example.org")) for number in range(RECIPIENTS_PER_REPORT)]
    words = Failed(Reply(550, "5.1.1", "ü" * 200), Peer("h" * 255, "192.0.2.7"))
    content = HEADER + b"X: y\r\n" * 100 + b"\r\n"
    mail = queued(*recipients, content=content)
    bounce = written(mail, failure(mail, words), content=content)
    assert len(bounce.content) <= INLINE_CONTENT_OCTETS
    assert types(bounce)[-1] == "text/rfc822-headers"
    assert "ü".encode() * 100 not in bounce.content


@given(
    st.binary(max_size=3000),
    st.text(min_size=1, max_size=300),
    st.text(max_size=600),
    st.booleans(),
    st.sampled_from([Ret.FULL, Ret.HEADERS, None]),
)
def test_no_hostile_text_breaks_a_report(
    content: bytes, local: str, words: str, smtputf8: bool, ret: Ret | None
) -> None:
    hostile = Failed(Reply(550, words, (words, words)), Peer(words, words))
    recipient = Recipient(Address(local, "example.org"), F, f"{words};{local}")
    mail = queued(recipient, content=content, smtputf8=smtputf8, ret=ret, envid=words)
    mail = evolve(mail, content=ContentRef("C" * 22, len(content)))
    bounce = written(mail, failure(mail, hostile), content=content)
    wire = bounce.content
    assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")
    assert max(map(len, wire.split(b"\r\n"))) <= 998
    assert b"\0" not in wire
    assert bounce.eight_bit or wire.isascii()
    assert types(bounce)[:1] == ["text/plain"]


def test_a_decision_without_an_end_or_a_wish_makes_no_report() -> None:
    mail = queued(to())
    decision: Decision = decide(mail, [BUSY], policy=RETRIES, now=SOON, chance=0.5)
    planned = plan_reports(mail, decision, now=SOON)
    assert planned == ReportPlan(decision.progress, ())
