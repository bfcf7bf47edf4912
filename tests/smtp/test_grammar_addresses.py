"""Addresses, domains, xtext: what is parsed and rendered comes back the same, by the fast road and by the slow one."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from elemta.mail.address import Address
from elemta.mail.envelope import BodyType
from elemta.smtp import commands, grammar, parameters
from elemta.smtp.events import MailFrom
from elemta.smtp.grammar import AddressError, AddressFault
from elemta.smtp.parameters import CommandRefused

ATEXT = "ABCxyz019!#$%&'*+-/=?^_`{|}~"
DOTTED = st.lists(st.text(ATEXT, min_size=1, max_size=6), min_size=1, max_size=4).map(".".join)
QUOTABLE = st.text(
    st.sampled_from('ab "\\<>@(),:;.[]!%') | st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20
)
LABEL = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,8}[a-z0-9_])?", fullmatch=True)
DOMAIN = st.lists(LABEL, min_size=1, max_size=5).map(".".join).filter(lambda domain: "xn--" not in domain)


@given(local=DOTTED | QUOTABLE, domain=DOMAIN)
@example(local="", domain="b.example")
@example(local='"', domain="b.example")
def test_an_address_comes_back(local: str, domain: str) -> None:
    address = Address(local, domain)
    assert grammar.parse_address(str(address)) == address


@given(local=st.text(st.characters(min_codepoint=0xA0, max_codepoint=0x2FFF), min_size=1, max_size=9))
def test_an_international_local_part_comes_back_unless_it_is_unfit(local: str) -> None:
    address = Address(local, "b.example")
    try:
        assert grammar.parse_address(str(address)) == address
    except AddressError:
        assert any(0x2028 <= ord(char) <= 0x202E or 0x2066 <= ord(char) <= 0x2069 for char in local)


@given(text=st.text(max_size=40) | st.text('ab@."\\<>[]:% ', max_size=30))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        address = grammar.parse_address(text)
    except AddressError as error:
        assert error.fault in AddressFault  # noqa: PT017  # either way is right, and this one says why
    else:
        assert address.domain == grammar.parse_domain(address.domain)
        assert address.domain.isascii()


@given(
    local=DOTTED,
    domain=DOMAIN | DOMAIN.map(str.upper),
    size=st.none() | st.integers(0, 10**20 - 1),
    body=st.none() | st.sampled_from(["7BIT", "8bitMIME"]),
    route=st.sampled_from(["", "@a.example:", "@a,@b.example:"]),
)
def test_both_roads_lead_to_the_same_mail(
    local: str, domain: str, size: int | None, body: str | None, route: str
) -> None:
    assume(len(domain) < 150)
    said = ("" if size is None else f" SIZE={size}") + ("" if body is None else f" BODY={body}")
    plain = commands.parse_mail(f"FROM:<{local}@{domain}>{said}".encode())
    # A parameter that changes nothing, or a route that is stripped, sends it down the slow road.
    assert plain == commands.parse_mail(f"from:  <{route}{local}@{domain}>{said} AUTH=<>".encode())
    assert plain == MailFrom(
        Address(local, domain.lower()),
        size,
        BodyType.SEVEN_BIT if body in (None, "7BIT") else BodyType.EIGHT_BIT_MIME,
    )


@given(local=DOTTED, domain=DOMAIN)
def test_both_roads_lead_to_the_same_recipient(local: str, domain: str) -> None:
    assume(len(domain) < 150 and not set("%!") & set(local))
    plain = commands.parse_rcpt(f"TO:<{local}@{domain}>".encode())
    assert plain == commands.parse_rcpt(f"TO:<@a.example:{local}@{domain}>".encode())
    assert plain.recipient.address == Address(local, domain)


@given(text=st.text('ab@<>."\\ :=,%[]' + "\x00\x7fé", max_size=60))
def test_a_routed_recipient_never_passes(text: str) -> None:
    try:
        event = commands.parse_rcpt(f"TO:{text}".encode(), smtputf8=True)
    except CommandRefused:
        return
    assert not set("%!@") & set(event.recipient.address.local)


def test_the_limit_of_a_path() -> None:
    # RFC 5321 §4.5.3.1.3: 256 octets with the brackets.
    longest = "a" * 60 + "@" + "abcd." * 38 + "efg"
    assert len(longest) == grammar.MAX_PATH_OCTETS - len("<>")
    assert str(grammar.parse_address(longest)) == longest
    assert commands.parse_rcpt(f"TO:<{longest}>".encode()).recipient.address == grammar.parse_address(longest)
    with pytest.raises(AddressError) as caught:
        grammar.parse_address("a" + longest)
    assert caught.value.fault is AddressFault.TOO_LONG
    with pytest.raises(CommandRefused) as refused:
        commands.parse_rcpt(f"TO:<a{longest}>".encode())
    assert refused.value.reply.code == 501


# ---- domains, literals ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("Example.COM", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("ＭＸ．example", "mx.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("r3--abc.example", "r3--abc.example"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[ipv6:2001:DB8::0:1]", "[IPv6:2001:db8::1]"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_domains(text: str, domain: str) -> None:
    assert grammar.parse_domain(text) == domain
    assert grammar.parse_domain(domain) == domain


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", AddressFault.DOMAIN),
        (".", AddressFault.DOMAIN),
        ("example.", AddressFault.DOMAIN),
        ("-a.example", AddressFault.DOMAIN),
        ("a-.example", AddressFault.DOMAIN),
        ("a" * 64 + ".example", AddressFault.DOMAIN),
        ("a b", AddressFault.DOMAIN),
        ("a\n", AddressFault.DOMAIN),
        ("xn---", AddressFault.DOMAIN),
        ("xn--a.example", AddressFault.DOMAIN),
        ("\u0301x.example", AddressFault.DOMAIN),
        ("a\u200db.example", AddressFault.DOMAIN),
        ("bü_cher.example", AddressFault.DOMAIN),
        ("abcd." * 51 + "e", AddressFault.TOO_LONG),
        ("[192.0.2.1", AddressFault.DOMAIN),
        ("[192.0.2.256]", AddressFault.DOMAIN),
        ("[192.0.2.01]", AddressFault.DOMAIN),
        ("[::1]", AddressFault.DOMAIN),
        ("[IPv6:fe80::1%eth0]", AddressFault.DOMAIN),
        ("[IPv6:]", AddressFault.DOMAIN),
        ("[]", AddressFault.DOMAIN),
    ],
)
def test_bad_domains(text: str, fault: AddressFault) -> None:
    with pytest.raises(AddressError) as caught:
        grammar.parse_domain(text)
    assert caught.value.fault is fault


# ---- xtext, parameters ---------------------------------------------------------------------------


@given(text=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30))
def test_xtext_comes_back(text: str) -> None:
    encoded = "".join(f"+{ord(char):02X}" if char in "+= " else char for char in text)
    assert grammar.decode_xtext(encoded) == text


@pytest.mark.parametrize("text", ["+", "+2", "+2g", "a=b", "a b", "+0D", "+00", "+7F", "+C3+A9", "é"])
def test_bad_xtext(text: str) -> None:
    assert grammar.decode_xtext(text) is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("ENVID=" + "x" * 100, 0),
        ("ENVID=" + "x" * 101, 501),
        ("AUTH", 501),
        ("AUTH=", 501),
        ("SIZE=0", 0),
        ("MT-PRIORITY", 501),
        ("MT-PRIORITY=0", 0),
        ("RET", 501),
        ("BODY", 501),
        ("BODY=", 501),
        ("REQUIRETLS=1", 501),
        ("=", 501),
        ("SIZE==1", 501),
        ("SIZE=1=1", 501),
        ("size=1 Size=2", 501),
    ],
)
def test_mail_parameters(text: str, code: int) -> None:
    try:
        parameters.parse_mail_parameters(text, require_tls_offered=True)
    except CommandRefused as refused:
        assert refused.reply.code == code  # noqa: PT017  # 0 stands for no refusal
    else:
        assert code == 0


def test_orcpt_limits() -> None:
    assert (
        parameters.parse_rcpt_parameters("ORCPT=utf-8;\u00fc@x.example", smtputf8=True)[1] == "utf-8;\u00fc@x.example"
    )
    for bad in ("rfc822;\u00fc@x", "utf-8;\u202e@x", "rfc822;" + "x" * 500, "rfc 822;x", ";x"):
        with pytest.raises(CommandRefused):
            parameters.parse_rcpt_parameters(f"ORCPT={bad}", smtputf8=True)
