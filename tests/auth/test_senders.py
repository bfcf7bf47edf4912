"""Which reverse-paths a user may use."""

import pytest

from elemta.auth.base import User
from elemta.auth.senders import permit_of
from elemta.config.auth import SenderRule
from elemta.mail.address import Address
from elemta.smtp.grammar import parse_address

ALICE = User(
    "alice@example.com",
    email="Alice.Liddell@example.org",
    attributes={
        "senders": "sales@example.com, info@xn--bcher-kva.example  @shop.example @BÜCHER.test rubbish @ @-.- a@b@c"
    },
)

OWN = ["alice@example.com", "ALICE@Example.COM", "alice+lists@example.com", "alice.liddell@example.org"]
LISTED = ["sales@example.com", "info@bücher.example", "anybody@shop.example", "x@xn--bcher-kva.test"]
FOREIGN = [
    "bob@example.com",
    "alice@example.net",
    "+alice@example.com",
    "alice-x@example.com",
    "x@sub.shop.example",
    "rubbish@example.com",
    '"alice@example.com"@evil.example',
]


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        (SenderRule.OWN, OWN, LISTED + FOREIGN),
        (SenderRule.LISTED, OWN + LISTED, FOREIGN),
        (SenderRule.ANY, OWN + LISTED + FOREIGN, []),
    ],
)
def test_what_a_rule_allows(rule: SenderRule, allowed: list[str], refused: list[str]) -> None:
    permit = permit_of(rule, ALICE)
    assert [text for text in allowed + refused if permit.allows(parse_address(text))] == allowed


@pytest.mark.parametrize("rule", SenderRule)
def test_the_null_reverse_path_is_everybodys(rule: SenderRule) -> None:
    assert permit_of(rule, User("nobody")).allows(None)


def test_a_name_that_is_no_address_gives_no_address() -> None:
    permit = permit_of(SenderRule.LISTED, User("alice"))
    assert not permit.allows(Address("alice", "example.com"))
    assert not permit.allows(Address("alice", ""))


def test_a_list_is_read_to_a_bound() -> None:
    listed = " ".join(f"a{number}@example.com" for number in range(1500))
    permit = permit_of(SenderRule.LISTED, User("x", attributes={"senders": listed}))
    assert len(permit.addresses) == 1000
