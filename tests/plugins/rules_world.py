"""What tests of rules share: mails and deliveries of a few words, rules from the catalogues."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from attrs import evolve
from hypothesis import strategies as st
from structlog.testing import LogCapture

from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Recipient
from elemta.net.base import Endpoint
from elemta.plugins.api import Delivery, Stage
from elemta.plugins.content import NoContent
from elemta.plugins.mail import MailInHand, SessionFacts
from elemta.plugins.rules.actions import ACTIONS, ActionKind
from elemta.plugins.rules.facts import FACTS, Fact, Kind, Situation
from elemta.plugins.rules.language import Rule, Source, parse_rules
from elemta.plugins.rules.operators import OPERATORS, Takes
from elemta.plugins.rules.reading import Entry
from elemta.smtp.grammar import parse_address

#: A Saturday, 2026-11-28, 23:30 UTC.
SATURDAY_NIGHT = 1_795_908_600.0
SESSION = SessionFacts(
    "s1",
    Endpoint("192.0.2.1", 4711),
    Endpoint("192.0.2.25", 25),
    "mx",
    helo="client.example.net",
    tls="TLSv1.3",
    user="Bob",
)
HEADER = (
    b"Received: from a\r\nReceived: from b\r\nSubject: =?utf-8?q?Ihre_Rechnung_f=C3=BCr?=\r\n =?utf-8?q?_Mai?=\r\n"
    b"From: eve@example.org\r\nX-Empty:\r\n"
)
FILES = {
    "partners.txt": "# ours\nexample.org\n\nbücher.example\n",
    "networks.txt": "192.0.2.0/28\n",
    "words.txt": "spam\nham\n",
}


def read_entries(name: str) -> Sequence[Entry]:
    if name not in FILES:
        raise ValueError("no such file or directory")
    lines = enumerate(FILES[name].splitlines(), start=1)
    return [Entry(number, line) for number, line in lines if line and not line.startswith("#")]


def rules_of(*rules: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Rules as they are written, with a name and a stage where they have none."""
    written = [{"name": f"rule {number}", "stage": "data_complete", **rule} for number, rule in enumerate(rules)]
    return parse_rules([Source("test.json", json.dumps({"rules": written}), read_entries)])


def a_mail(
    sender: str = "alice@example.org",
    recipients: Sequence[str] = ("bob@example.com", "carol@sub.example.com"),
    *,
    header: bytes = HEADER,
    session: SessionFacts = SESSION,
    size: int = 2000,
) -> MailInHand:
    """A mail that is there with its header; its body is of no interest."""
    mail = MailInHand("q1", session, parse_address(sender) if sender else None, declared_size=size, routes=("backup",))
    for recipient in recipients:
        mail.add_recipient(Recipient(parse_address(recipient)))
    mail.header_came(header)
    return mail


def a_situation(mail: MailInHand | None = None, **more: Any) -> Situation:
    mail = mail or a_mail()
    return Situation(SATURDAY_NIGHT, mail.session, mail, **more)


def a_delivery(recipients: Sequence[str] = ("bob@example.com",), attempts: int = 3) -> Delivery:
    envelope = Envelope(Address("alice", "example.org"), tuple(Recipient(parse_address(each)) for each in recipients))
    return Delivery("q1", envelope, "mx:example.com", attempts, {"rspamd": "spam"}, NoContent())


class Clock:
    """A clock that stands still."""

    def wall(self) -> float:
        return SATURDAY_NIGHT


class RulesHost:
    """A host with a clock and a log, which is all that rules use."""

    def __init__(self) -> None:
        self.capture = LogCapture()
        self.log = structlog.wrap_logger(None, processors=[self.capture])
        self.clock = Clock()
        self.routes = frozenset[str]()

    def events(self, name: str) -> list[dict[str, Any]]:
        return [dict(entry) for entry in self.capture.entries if entry["event"] == name]


def with_session(**facts: Any) -> SessionFacts:
    return evolve(SESSION, **facts)


# ---- rules at random -----------------------------------------------------------------------------

_WORDS = st.sampled_from(["", "a", "Bob", "x.y", "ä ö", "*?", "example.com"])
_TEXTS = _WORDS.filter(str.strip)
_DOMAINS = st.sampled_from(["example.com", "a.example", "xn--bcher-kva.example"])
_ADDRESSES = st.sampled_from(["a@example.com", "B.c@example.org", '"x.."@a.example'])
_ENTRIES: Mapping[str, st.SearchStrategy[Any]] = {
    "a text": _WORDS,
    "a mail address": st.sampled_from(["", "postmaster", "a@example.com"]),
    "a domain": _DOMAINS,
    "a number": st.integers(-5, 50) | st.floats(-5, 50),
    "a size": st.integers(0, 10_000),
    "true or false": st.booleans(),
    "an IP address": st.sampled_from(["192.0.2.0/24", "2001:db8::/32", "192.0.2.1/32", "0.0.0.0/0"]),
    "a time of day": st.sampled_from(["00:00", "08:30", "23:59"]),
    "a day of the week": st.sampled_from(["mon", "sat"]),
}
_FIELDS: Mapping[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(["Subject", "X-Y"]),
    "value": _TEXTS,
    "at": st.sampled_from(["top", "bottom"]),
    "occurrence": st.integers(1, 3),
    "text": _TEXTS.filter(str.isascii),
    "reason": _TEXTS,
    "address": _ADDRESSES | st.lists(_ADDRESSES, min_size=1, max_size=3),
    "priority": st.sampled_from(["low", "critical"]),
    "key": st.sampled_from(["a", "b.c"]),
    "points": st.floats(-10, 10),
}


@st.composite
def tests_of(draw: st.DrawFn, fact: Fact) -> dict[str, Any]:
    operator = draw(st.sampled_from(sorted(OPERATORS[fact.kind].values(), key=lambda each: each.name)))
    entries = _ENTRIES[fact.kind.value]
    if operator.name in ("contains", "starts_with", "ends_with"):
        entries = _WORDS.filter(bool)
    elif operator.name == "exists":
        entries = st.booleans()
    elif operator.name == "matches":
        entries = st.sampled_from(["a", r"^\w+$", "(a|b)*c{2,3}"])
    elif operator.name == "glob":
        entries = _WORDS
    if fact.kind in (Kind.ADDRESS, Kind.DOMAIN) and operator.name != "exists":
        entries = entries.filter(str.isascii)
    if operator.takes is Takes.PAIR:
        operand = draw(st.lists(entries, min_size=2, max_size=2, unique=True))
    else:
        several = st.lists(entries, min_size=1, max_size=3)
        single = {Takes.ONE: entries, Takes.LIST: several, Takes.ANY: entries | several}
        operand = draw(single[operator.takes])
    test: dict[str, Any] = {operator.name: operand}
    if operator.has_case and draw(st.booleans()):
        test["case"] = True
    return {f"{fact.name}:{draw(_FIELDS['name'])}" if fact.argument else fact.name: test}


def conditions_at(stage: Stage) -> st.SearchStrategy[dict[str, Any]]:
    known = [fact for fact in FACTS.values() if stage in fact.stages]
    return st.recursive(
        st.sampled_from(known).flatmap(tests_of),
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3).map(lambda each: {"all": each})
            | st.lists(inner, min_size=1, max_size=3).map(lambda each: {"any": each})
            | inner.map(lambda each: {"not": each})
        ),
        max_leaves=5,
    )


@st.composite
def actions_at(draw: st.DrawFn, stage: Stage) -> list[Any]:
    known = [kind for kind in ACTIONS.values() if stage in kind.stages and kind.name != "set_route"]
    found = [draw(_written(kind)) for kind in draw(st.lists(st.sampled_from(known), min_size=1, max_size=4))]
    words = [next(iter(each)) for each in found]
    ends = [n for n, word in enumerate(words) if word in ("accept", "reject", "defer", "discard", "quarantine")]
    if not ends:
        return found
    is_kept = words[ends[0]] in ("accept", "quarantine")
    before = [each for each, word in zip(found[: ends[0]], words, strict=False) if is_kept or word == "score"]
    return [*before, found[ends[0]]]


@st.composite
def _written(draw: st.DrawFn, kind: ActionKind) -> dict[str, Any]:
    fields = {}
    for each in kind.fields:
        if each.name in _FIELDS and (each.required or draw(st.booleans())):
            fields[each.name] = draw(_FIELDS[each.name])
    return {kind.name: fields}


@st.composite
def rules(draw: st.DrawFn, stage: Stage | None = None) -> dict[str, Any]:
    """A rule as it is written."""
    at = stage or draw(st.sampled_from([Stage.CONNECT, Stage.RCPT_TO, Stage.DATA_COMPLETE, Stage.PRE_DELIVERY]))
    rule: dict[str, Any] = {"stage": at.value, "then": draw(actions_at(at)), "dry_run": draw(st.booleans())}
    if draw(st.booleans()):
        rule["if"] = draw(conditions_at(at))
    return rule
