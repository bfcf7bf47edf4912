"""What rules decide: every fact and operator on a mail that is known, every action, the order of rules."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.config.rules import DefaultAction
from elemta.mail.address import Address
from elemta.mail.envelope import Priority, Recipient
from elemta.net.base import Endpoint
from elemta.plugins.api import Stage
from elemta.plugins.mail import MailInHand
from elemta.plugins.rules.conditions import make_condition
from elemta.plugins.rules.evaluate import Decision, decide, make_programs
from elemta.plugins.rules.facts import FACTS, MAX_CHARACTERS, MAX_FIELDS, Situation
from elemta.plugins.verdicts import (
    CONTINUE,
    AddHeader,
    AddRecipient,
    Annotate,
    Continue,
    Defer,
    Discard,
    Quarantine,
    Reject,
    RemoveHeader,
    RemoveRecipient,
    ReplaceHeader,
    SetPriority,
    SetRoute,
)
from elemta.smtp.grammar import parse_address
from tests.plugins.rules_world import (
    SATURDAY_NIGHT,
    a_delivery,
    a_mail,
    a_situation,
    rules,
    rules_of,
    with_session,
)


def holds(condition: dict[str, Any], situation: Situation | None = None, stage: Stage = Stage.DATA_HEADERS) -> bool:
    (rule,) = rules_of({"stage": stage.value, "if": condition, "then": "accept"})
    return make_condition(rule.condition)(situation or a_situation())


CONDITIONS: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"client": "192.0.2.1"}, True),
    ({"client": ["10.0.0.0/8", "192.0.2.0/30"]}, True),
    ({"client": ["10.0.0.0/8", "2001:db8::/32"]}, False),
    ({"client": "0.0.0.0/0"}, True),
    ({"client": {"file": "networks.txt"}}, True),
    ({"listener": "MX"}, True),
    ({"listener": {"equals": "MX", "case": True}}, False),
    ({"tls": True}, True),
    ({"tls": False}, False),
    ({"tls_version": {"starts_with": "TLSv1."}}, True),
    ({"may_relay": False}, True),
    ({"helo": {"ends_with": [".example.org", ".example.net"]}}, True),
    ({"helo": {"contains": "CLIENT"}}, True),
    ({"helo": {"glob": "client.*.net"}}, True),
    ({"helo": {"glob": "client"}}, False),
    ({"helo": {"matches": "^client"}}, True),
    ({"helo": {"matches": "^example"}}, False),
    ({"helo": {"matches": ["^example", r"\.net$"]}}, True),
    ({"user": ["alice", "bob"]}, True),
    ({"user": {"exists": True}}, True),
    ({"user": {"exists": False}}, False),
    ({"sender": "ALICE@example.org"}, True),
    ({"sender": ""}, False),
    ({"sender": {"exists": True}}, True),
    ({"sender_domain": "example.org"}, True),
    ({"sender_domain": {"within": "org"}}, True),
    ({"sender_domain": {"within": "ample.org"}}, False),
    ({"sender_domain": {"within": {"file": "partners.txt"}}}, True),
    ({"recipient": "carol@sub.example.com"}, True),
    ({"recipient": "dave@example.com"}, False),
    ({"recipient_domain": {"within": "example.com"}}, True),
    ({"recipient_domain": {"equals": "example.org"}}, False),
    ({"recipients": 2}, True),
    ({"recipients": {"greater": 2}}, False),
    ({"recipients": {"at_least": 2, "at_most": 2}}, True),
    ({"recipients": {"less": 2}}, False),
    ({"size": 2000}, True),
    ({"size": {"greater": "1.9kB", "less": "2 KiB"}}, True),
    ({"size": {"at_most": "1 M"}}, True),
    ({"header:subject": "Ihre Rechnung für Mai"}, True),
    ({"header:Subject": {"contains": ["invoice", "rechnung"]}}, True),
    ({"header:Received": "from b"}, True),
    ({"header:X-Empty": {"exists": True}}, False),
    ({"header_count:X-Empty": 1}, True),
    ({"header:X-None": {"exists": False}}, True),
    ({"header:X-None": {"equals": ""}}, False),
    ({"header_count:Received": {"greater": 1}}, True),
    ({"score": 0}, True),
    ({"annotation:x": {"exists": False}}, True),
    ({"time": {"between": ["22:00", "06:00"]}}, True),
    ({"time": {"between": ["23:30", "23:31"]}}, True),
    ({"time": {"between": ["06:00", "23:30"]}}, False),
    ({"weekday": ["saturday", "sun"]}, True),
    ({"weekday": "sun"}, False),
    ({"listener": "mx", "tls": False}, False),
    ({"any": [{"listener": "x"}, {"tls": True}]}, True),
    ({"any": [{"listener": "x"}, {"tls": False}]}, False),
    ({"all": [{"listener": "mx"}, {"tls": True}]}, True),
    ({"not": {"listener": "mx", "tls": False}}, True),
    ({"not": {"any": [{"listener": "mx"}]}}, False),
]


@pytest.mark.parametrize(("condition", "expected"), CONDITIONS, ids=repr)
def test_a_condition(condition: dict[str, Any], expected: bool) -> None:
    assert holds(condition) is expected


def test_at_rcpt_the_recipient_is_the_one_asked_about() -> None:
    situation = a_situation(recipient=parse_address("dave@example.net"))
    assert holds({"recipient": "dave@example.net", "recipients": 3}, situation, Stage.RCPT_TO)
    assert not holds({"recipient_domain": {"within": "example.com"}}, situation, Stage.RCPT_TO)


def test_a_size_is_as_exact_as_it_is_written() -> None:
    assert holds({"size": "1.001 kB"}, a_situation(a_mail(size=1001)))


def test_the_null_sender() -> None:
    situation = a_situation(a_mail(""))
    assert holds({"sender": "", "sender_domain": "", "not": {"sender": {"exists": True}}}, situation)


@pytest.mark.parametrize(
    ("host", "network", "expected"),
    [
        ("::ffff:192.0.2.1", "192.0.2.0/24", True),
        ("2001:db8::1", "2001:db8::/32", True),
        ("2001:db8::1", "0.0.0.0/0", False),
        ("fe80::1%eth0", "fe80::/10", True),
        ("/run/elemta.sock", "0.0.0.0/0", False),
        ("192.0.2.1", "2001:db8::/32", False),
    ],
)
def test_clients(host: str, network: str, expected: bool) -> None:
    mail = a_mail(session=with_session(client=Endpoint(host, 25)))
    assert holds({"client": network}, a_situation(mail)) is expected


def test_a_delivery_is_known() -> None:
    situation = Situation(SATURDAY_NIGHT, delivery=a_delivery())
    for condition in (
        {"destination": "mx:example.com", "attempts": {"at_least": 3}},
        {"sender": "alice@example.org", "recipient_domain": "example.com", "recipients": 1, "size": 0},
        {"annotation:rspamd": {"one_of": {"file": "words.txt"}}, "weekday": "sat"},
    ):
        assert holds(condition, situation, Stage.PRE_DELIVERY)


def test_fields_beyond_a_hundred_are_not_looked_at() -> None:
    header = b"X: a\r\n" * MAX_FIELDS + b"X: b\r\n"
    assert not holds({"header:X": "b"}, a_situation(a_mail(header=header)))
    assert holds({"header:X": "a", "header_count:X": MAX_FIELDS + 1}, a_situation(a_mail(header=header)))


def test_fields_beyond_ten_long_ones_are_not_looked_at() -> None:
    """A pattern takes its time for each character, and nobody else is served meanwhile."""
    header = b"X: a\r\n" + b"".join(b"X: %d%s\r\n" % (number, b"x" * 997) for number in range(10)) + b"X: b\r\n"
    situation = a_situation(a_mail(header=header))
    assert sum(map(len, situation.ask(FACTS["header"], "x"))) == MAX_CHARACTERS
    assert holds({"header:X": {"starts_with": "9x"}}, situation)
    assert not holds({"header:X": "b"}, situation)


def test_a_fact_is_read_once_for_all_rules() -> None:
    mail = a_mail(header=b"X: A\r\n")
    situation = a_situation(mail)
    assert holds({"header:X": {"matches": "^A$"}, "score": 0}, situation)
    mail.header_came(b"X: B\r\n")
    assert holds({"header:x": "a", "not": {"header:X": {"contains": "b"}}}, situation)
    situation.added_score = 3
    assert holds({"score": 3}, situation), "but for the score, which rules change"


@pytest.mark.parametrize("sender", ["gru\u0308n@example.org", "gr\u00fcn@example.org"])
def test_accents_of_addresses_may_be_composed_or_not(sender: str) -> None:
    for written in ("gru\u0308n@example.org", "gr\u00fcn@example.org"):
        assert holds({"sender": {"equals": written, "starts_with": written[:4]}}, a_situation(a_mail(sender)))


def test_accents_may_be_composed_or_not() -> None:
    situation = a_situation(a_mail(header="Subject: Gr\u00fc\u00dfe, Gru\u0308\u00dfe\r\n".encode()))
    for written in ("gr\u00fc\u00dfe, gr\u00fc", "gru\u0308\u00dfe, gru\u0308"):
        assert holds(
            {"header:Subject": {"contains": written, "glob": f"{written}*", "matches": f"^{written}"}}, situation
        )


@pytest.mark.parametrize(
    ("sender", "condition"),
    [
        ("eve@build_host.example", {"sender_domain": {"within": "build_host.example"}}),
        ("eve@build_host.example", {"sender": "Eve@build_host.example"}),
        ("eve@[192.0.2.9]", {"sender": "eve@[192.0.2.9]", "sender_domain": "[192.0.2.9]"}),
        ("eve@[IPv6:2001:db8::9]", {"sender_domain": "[ipv6:2001:0DB8:0::9]"}),
        ('"e v e"@example.org', {"sender": '"e v e"@example.org'}),
        ("eve@example.org", {"sender": '"eve"@EXAMPLE.org'}),
        ("eve@xn--bcher-kva.example", {"sender": {"ends_with": "@xn--BCHER-kva.example"}}),
    ],
)
def test_addresses_are_written_as_mails_have_them(sender: str, condition: dict[str, Any]) -> None:
    assert holds(condition, a_situation(a_mail(sender)))


# ---- actions -------------------------------------------------------------------------------------


def decided(*written: dict[str, Any], mail: MailInHand | None = None, **options: Any) -> Decision:
    programs = make_programs(rules_of(*written), **options)
    return decide(programs[Stage.DATA_COMPLETE], a_situation(mail))


BOB, CAROL = Address("bob", "example.com"), Address("carol", "sub.example.com")
ACTIONS: list[tuple[Any, Any]] = [
    ("accept", CONTINUE),
    ("reject", Reject()),
    ({"reject": "no"}, Reject("no")),
    ({"reject": {"text": "no", "code": 554, "enhanced": "5.6.0"}}, Reject("no", 554, "5.6.0")),
    ("defer", Defer()),
    ({"defer": {"text": "later", "code": 421, "enhanced": "4.3.2"}}, Defer("later", 421, "4.3.2")),
    ("discard", Discard("rule rule 0")),
    ({"discard": "spam"}, Discard("spam")),
    ("quarantine", Quarantine("rule rule 0")),
    ({"quarantine": "odd"}, Quarantine("odd")),
    ({"add_header": {"name": "X-A", "value": "b"}}, [AddHeader("X-A", "b")]),
    ({"add_header": {"name": "X-A", "value": "b", "at": "bottom"}}, [AddHeader("X-A", "b", None)]),
    ({"add_header": {"name": "X-A", "value": "ü"}}, [AddHeader("X-A", "=?utf-8?b?w7w=?=")]),
    ({"replace_header": {"name": "X-A", "value": "b"}}, [ReplaceHeader("X-A", "b")]),
    ({"replace_header": {"name": "X-A", "value": "b", "occurrence": 2}}, [ReplaceHeader("X-A", "b", 2)]),
    ({"remove_header": "X-A"}, [RemoveHeader("X-A")]),
    ({"remove_header": {"name": "X-A", "occurrence": 1}}, [RemoveHeader("X-A", 1)]),
    ({"add_recipient": "dave@example.net"}, [AddRecipient(Recipient(Address("dave", "example.net")))]),
    ({"remove_recipient": ["BOB@example.com", "x@example.net"]}, [RemoveRecipient(BOB)]),
    (
        {"redirect": "dave@example.net"},
        [RemoveRecipient(BOB), RemoveRecipient(CAROL), AddRecipient(Recipient(Address("dave", "example.net")))],
    ),
    ({"set_priority": "critical"}, [SetPriority(Priority.CRITICAL)]),
    ({"set_route": "backup"}, [SetRoute("backup")]),
    ({"annotate": {"key": "a", "value": "b"}}, [Annotate("a", "b")]),
    ({"score": 2.5}, Continue((), 2.5)),
]


@pytest.mark.parametrize(("action", "expected"), ACTIONS, ids=repr)
def test_an_action(action: Any, expected: Any) -> None:
    verdict = decided({"then": action}).verdict
    assert verdict == (Continue(expected) if isinstance(expected, list) else expected)
    if isinstance(verdict, Continue):
        a_mail().apply(verdict.changes)


@pytest.mark.parametrize(
    ("subject", "tag", "expected"),
    [
        (b"Subject: hello\r\n", "[EXT]", "[EXT] hello"),
        (b"Subject: Re: [EXT] hello\r\n", "[EXT]", "Re: [EXT] hello"),
        (b"", "[EXT]", "[EXT]"),
        (b"Subject:\r\n", "[EXT] ", "[EXT]"),
        (b"Subject: a\r\n b\r\n", "[EXT]", "[EXT] a b"),
        (b"Subject: =?utf-8?q?=C3=BC?=\r\n", "[außen]", "[außen] ü"),
        (b"Subject: " + b"x" * 900 + b"\r\n", "y" * 900, None),
        (b"Subject: a\0b\r\n", "[EXT]", "[EXT] a b"),
        (b"Subject: " + b"x" * 2000 + b"\r\n", "[EXT]", f"[EXT] {'x' * 992}"),
    ],
)
def test_the_subject_gets_its_tag_once(subject: bytes, tag: str, expected: str | None) -> None:
    mail = a_mail(header=subject)
    for _ in range(2):
        verdict = decided({"then": {"tag_subject": tag}}, mail=mail).verdict
        assert isinstance(verdict, Continue)
        mail.apply(verdict.changes)
    if expected is not None:
        assert mail.headers.text("Subject") == expected
    assert all(len(line) <= 998 for value in mail.headers.raw("Subject") for line in value.split(b"\r\n"))


TAG: dict[str, Any] = {"then": {"tag_subject": "[B]"}}


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ({"tag_subject": "[A]"}, "[B] [A] hello"),
        ({"replace_header": {"name": "subject", "value": "bye"}}, "[B] bye"),
        ({"replace_header": {"name": "Subject", "value": "bye", "occurrence": 2}}, "[B] hello"),
        ({"remove_header": "SUBJECT"}, "[B]"),
        ({"remove_header": {"name": "Subject", "occurrence": 2}}, "[B] hello"),
        ({"add_header": {"name": "Subject", "value": " bye"}}, "[B] bye"),
        ({"add_header": {"name": "Subject", "value": "bye", "at": "bottom"}}, "[B] hello"),
    ],
)
def test_a_tag_keeps_what_rules_before_asked_for(action: dict[str, Any], expected: str) -> None:
    mail = a_mail(header=b"Subject: hello\r\n")
    verdict = decided({"then": action}, TAG, mail=mail).verdict
    assert isinstance(verdict, Continue)
    mail.apply(verdict.changes)
    assert mail.headers.text("Subject") == expected


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ({"redirect": "dave@example.net"}, ["dave@example.net"]),
        ({"remove_recipient": "ERIN@example.net"}, ["bob@example.com", "carol@sub.example.com"]),
    ],
)
def test_what_a_rule_added_another_can_take_away(last: dict[str, Any], expected: list[str]) -> None:
    mail = a_mail()
    verdict = decided({"then": {"add_recipient": "erin@example.net"}}, {"then": last}, mail=mail).verdict
    assert isinstance(verdict, Continue)
    mail.apply(verdict.changes)
    assert [str(each.address) for each in mail.recipients] == expected


def test_two_rules_may_redirect_as_many_as_a_mail_has() -> None:
    mail = a_mail(recipients=[f"user{number}@example.com" for number in range(2000)])
    redirect = {"then": {"redirect": "dave@example.net"}}
    verdict = decided(redirect, redirect, mail=mail).verdict
    assert isinstance(verdict, Continue)
    mail.apply(verdict.changes)
    assert [str(each.address) for each in mail.recipients] == ["dave@example.net"]


def test_a_redirected_mail_goes_there_alone() -> None:
    mail = a_mail()
    verdict = decided({"then": {"redirect": ["bob@example.com", "dave@example.net"]}}, mail=mail).verdict
    assert isinstance(verdict, Continue)
    mail.apply(verdict.changes)
    assert [str(each.address) for each in mail.recipients] == ["bob@example.com", "dave@example.net"]


# ---- the order of rules --------------------------------------------------------------------------

NOTE = {"then": {"annotate": {"key": "a", "value": "b"}}}


def test_rules_are_asked_until_one_decides() -> None:
    decision = decided(
        NOTE, {"if": {"tls": False}, "then": "discard"}, {"then": {"quarantine": "odd"}}, {"then": "reject"}
    )
    assert decision == Decision(Quarantine("odd", (Annotate("a", "b"),)), "rule 2", ("rule 0", "rule 2"))


def test_accepting_keeps_what_was_changed_before() -> None:
    decision = decided({"then": [{"score": 1}, "accept"]}, {"then": "reject"})
    assert decision == Decision(Continue((), 1.0), "rule 0", ("rule 0",))


def test_a_score_counts_for_the_rules_behind() -> None:
    scoring = [{"then": {"score": 3}}, {"then": {"score": 4}}]
    assert decided(*scoring, {"if": {"score": {"at_least": 7}}, "then": "reject"}).verdict == Reject(score=7)
    assert decided(*scoring, {"if": {"score": {"greater": 7}}, "then": "reject"}).verdict == Continue((), 7)


def test_what_is_not_enabled_is_not_asked() -> None:
    assert make_programs(rules_of({"then": "reject", "enabled": False})) == {}


def test_a_rehearsed_rule_does_nothing_but_be_told_of() -> None:
    rehearsed = {"then": [{"score": 5}, "reject"], "dry_run": True}
    decision = decided(rehearsed, {"if": {"score": 0}, "then": "discard"})
    assert decision == Decision(Discard("rule rule 1"), "rule 1", ("rule 1",), ("rule 0",))


def test_all_rules_can_be_rehearsed() -> None:
    decision = decided({"then": "reject"}, NOTE, dry_run=True, default=DefaultAction.REJECT)
    assert decision == Decision(CONTINUE, "", (), ("rule 0", "rule 1"))


# ---- the default ---------------------------------------------------------------------------------

REFUSING = {"if": {"tls": False}, "then": "accept"}


@pytest.mark.parametrize(
    ("default", "verdict"),
    [
        (DefaultAction.ACCEPT, CONTINUE),
        (DefaultAction.REJECT, Reject()),
        (DefaultAction.DEFER, Defer()),
        (DefaultAction.DISCARD, Discard("no rule decided")),
        (DefaultAction.QUARANTINE, Quarantine("no rule decided")),
    ],
)
def test_the_default_holds_when_no_rule_decides(default: DefaultAction, verdict: object) -> None:
    assert decided(REFUSING, default=default).verdict == verdict
    assert decided({"then": "accept"}, default=default).verdict == CONTINUE


def test_the_default_keeps_changes() -> None:
    decision = decided(NOTE, {"then": {"score": 1}}, default=DefaultAction.QUARANTINE)
    assert decision.verdict == Quarantine("no rule decided", (Annotate("a", "b"),), 1.0)


def test_the_default_holds_at_the_stages_that_have_rules() -> None:
    stages = ["connect", "rcpt_to", "pre_delivery"]
    programs = make_programs(rules_of({"stage": stages, "then": "accept"}), default=DefaultAction.DISCARD)
    assert {stage.value: program.by_default for stage, program in programs.items()} == {
        "connect": None,
        "rcpt_to": Discard("no rule decided"),
        "pre_delivery": None,
    }


def test_a_rehearsal_lets_the_default_hold_where_it_did() -> None:
    rehearsed = {"stage": "rcpt_to", "then": "accept", "dry_run": True}
    programs = make_programs(rules_of(rehearsed), default=DefaultAction.REJECT)
    assert {stage: program.by_default for stage, program in programs.items()} == {
        Stage.RCPT_TO: None,
        Stage.DATA_COMPLETE: Reject(),
    }
    programs = make_programs(rules_of(rehearsed, REFUSING), default=DefaultAction.REJECT)
    assert programs[Stage.RCPT_TO].by_default is None
    assert programs[Stage.DATA_COMPLETE].by_default == Reject()


def test_the_default_holds_where_there_are_no_rules() -> None:
    (program,) = make_programs((), default=DefaultAction.REJECT).values()
    assert program.stage is Stage.DATA_COMPLETE
    assert decide(program, a_situation()).verdict == Reject()
    assert make_programs(()) == {}
    assert make_programs((), default=DefaultAction.REJECT, dry_run=True) == {}


# ---- whatever the mail ---------------------------------------------------------------------------

OCTETS = st.binary(max_size=200) | st.lists(
    st.sampled_from([b"Subject: ", b"X-Y:", b"\r\n", b" ", b"=?utf-8?b?", b"?=", b"\xff", b"\0", b"a" * 1200, b":"]),
    max_size=12,
).map(b"".join)
LOCALS = st.text(min_size=1, max_size=10)


@st.composite
def situations(draw: st.DrawFn, stage: Stage) -> Situation:
    if stage is Stage.PRE_DELIVERY:
        return Situation(draw(st.floats(0, 1e11)), delivery=a_delivery())
    session = with_session(
        client=Endpoint(draw(st.sampled_from(["192.0.2.1", "::1", "/x", "", "fe80::1%a"])), 25),
        helo=draw(st.text(max_size=10)),
        user=draw(st.text(max_size=10)),
    )
    sender = draw(st.none() | LOCALS.map(lambda local: Address(local, "example.org")))
    mail = MailInHand("q", session, sender, declared_size=draw(st.none() | st.integers(0, 10**9)))
    for local in draw(st.lists(LOCALS, max_size=3)):
        mail.add_recipient(Recipient(Address(local, draw(st.sampled_from(["example.com", "[192.0.2.1]", ""])))))
    mail.header_came(draw(OCTETS))
    return Situation(draw(st.floats(0, 1e11)), session, mail, draw(st.none() | st.just(BOB)))


@st.composite
def meetings(draw: st.DrawFn) -> tuple[Stage, Sequence[dict[str, Any]], Situation]:
    stage = draw(st.sampled_from([Stage.CONNECT, Stage.RCPT_TO, Stage.DATA_COMPLETE, Stage.PRE_DELIVERY]))
    return stage, draw(st.lists(rules(stage), min_size=1, max_size=5)), draw(situations(stage))


@given(meetings())
def test_no_mail_makes_a_rule_raise(met: tuple[Stage, Sequence[dict[str, Any]], Situation]) -> None:
    stage, written, situation = met
    decision = decide(make_programs(rules_of(*written))[stage], situation)
    assert len(decision.held) + len(decision.rehearsed) <= len(written)
    if isinstance(decision.verdict, Continue | Quarantine) and situation.mail is not None:
        mail = situation.mail
        assert isinstance(mail, MailInHand)
        mail.apply(decision.verdict.changes)
