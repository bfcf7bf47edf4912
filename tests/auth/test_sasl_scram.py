"""SCRAM-SHA-256 with and without channel binding: the example of RFC 7677, a foreign client, every refusal."""

import base64

import pytest
import scramp

from elemta.auth.sasl.base import (
    Authenticated,
    Challenge,
    Circumstances,
    Exchange,
    Fault,
    NeedVerifier,
    OutOfTurn,
    Refused,
)
from elemta.auth.sasl.mechanisms import begin
from elemta.auth.scram import MIN_ITERATIONS, SCRAM_ITERATIONS, Verifier, make_verifier

#: RFC 7677 §3: the user `user`, the password `pencil`.
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
RFC_7677 = make_verifier("pencil", salt=SALT, iterations=4096)
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
PROOF = b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
CLIENT_FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0," + PROOF
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

BINDING = bytes(range(32))
TYPE = "tls-server-end-point"


def scram(*, plus: bool = False, binding: bytes = b"", offers_plus: bool = False) -> Exchange:
    circumstances = Circumstances(
        nonce=SERVER_NONCE, binding=binding, offers_plus=offers_plus, secret=b"the server's secret"
    )
    return begin("SCRAM-SHA-256-PLUS" if plus else "SCRAM-SHA-256", circumstances)


def test_the_example_of_the_rfc() -> None:
    exchange = scram()
    assert exchange.step(CLIENT_FIRST) == NeedVerifier("user")
    assert exchange.known(RFC_7677) == Challenge(SERVER_FIRST)
    assert exchange.step(CLIENT_FINAL) == Challenge(SERVER_FINAL)
    assert exchange.step(b"") == Authenticated("user")


def test_without_an_initial_response() -> None:
    exchange = scram()
    assert exchange.step(None) == Challenge(b"")
    assert exchange.step(CLIENT_FIRST) == NeedVerifier("user")


# ---- a foreign client ----------------------------------------------------------------------------


def login(exchange: Exchange, client: scramp.ScramClient, verifier: Verifier | None) -> object:
    """The whole dialogue with the client of another library; it checks the server's signature at the end."""
    need = exchange.step(client.get_client_first().encode())
    if not isinstance(need, NeedVerifier):
        return need
    client.set_server_first(exchange.known(verifier).data.decode())
    answer = exchange.step(client.get_client_final().encode())
    if not isinstance(answer, Challenge):
        return answer
    client.set_server_final(answer.data.decode())
    return exchange.step(b"")


def client(
    password: str, *, user: str = "user", plus: bool = False, seen: bytes = BINDING, able: bool = False
) -> scramp.ScramClient:
    """A client; `able` knows channel binding, but was not offered it."""
    mechanism = "SCRAM-SHA-256-PLUS" if plus else "SCRAM-SHA-256"
    return scramp.ScramClient([mechanism], user, password, channel_binding=(TYPE, seen) if plus or able else None)


@pytest.mark.parametrize("user", ["user", "Alice@Example.com", "a=b,c", "m\u00fcller"])
@pytest.mark.parametrize("password", ["pencil", "correct horse", "p\u00e4ssw\u00f6rd", "I\u00adX"])
def test_another_librarys_client(user: str, password: str) -> None:
    verifier = make_verifier(password, salt=SALT, iterations=MIN_ITERATIONS)
    outcome = login(scram(), client(password, user=user), verifier)
    assert outcome == Authenticated(user.replace("A", "a").replace("E", "e"))


def test_another_librarys_client_with_channel_binding() -> None:
    exchange = scram(plus=True, binding=BINDING, offers_plus=True)
    assert login(exchange, client("pencil", plus=True), RFC_7677) == Authenticated("user")


def test_another_librarys_verifier() -> None:
    salt, stored_key, server_key, iterations = scramp.ScramMechanism("SCRAM-SHA-256").make_auth_info("pencil")
    verifier = Verifier(iterations, salt, stored_key, server_key)
    assert login(scram(), client("pencil"), verifier) == Authenticated("user")


def test_a_wrong_password() -> None:
    outcome = login(scram(), client("pencils"), RFC_7677)
    assert outcome == Refused("the proof is wrong", Fault.CREDENTIALS)


def test_between_two_channels() -> None:
    """Somebody in the middle has a certificate of their own: the password is right, the channel is not."""
    exchange = scram(plus=True, binding=BINDING, offers_plus=True)
    outcome = login(exchange, client("pencil", plus=True, seen=BINDING[::-1]), RFC_7677)
    assert outcome == Refused("the client sees another channel", Fault.CHANNEL)


def test_an_offer_taken_away() -> None:
    """The client could bind, we offered it, the client did not see that: RFC 5802 §6."""
    outcome = login(scram(binding=BINDING, offers_plus=True), client("pencil", able=True), RFC_7677)
    assert outcome == Refused("the client did not see our offer of channel binding", Fault.CHANNEL)


def test_no_offer_no_downgrade() -> None:
    assert login(scram(), client("pencil", able=True), RFC_7677) == Authenticated("user")


def test_a_client_that_cannot_bind_may_come_where_binding_is_offered() -> None:
    assert login(scram(binding=BINDING, offers_plus=True), client("pencil"), RFC_7677) == Authenticated("user")


# ---- users who do not exist ----------------------------------------------------------------------


def test_an_unknown_user_looks_like_any_other() -> None:
    def shown(name: bytes) -> bytes:
        exchange = scram()
        exchange.step(b"n,,n=" + name + b",r=abc")
        return exchange.known(None).data

    salt = shown(b"nobody").split(b",")[1]
    assert len(base64.b64decode(salt.removeprefix(b"s="))) == len(SALT)
    assert shown(b"nobody").endswith(b",i=%d" % SCRAM_ITERATIONS)
    assert shown(b"nobody") == shown(b"NOBODY"), "the same salt whenever asked, in whatever spelling"
    assert salt not in shown(b"somebody"), "of each name its own"
    other = begin("SCRAM-SHA-256", Circumstances(nonce=SERVER_NONCE, secret=b"another"))
    other.step(b"n,,n=nobody,r=abc")
    assert salt not in other.known(None).data, "of each server its own"


def test_an_unknown_user_is_refused_like_a_wrong_password() -> None:
    assert login(scram(), client("pencil"), None) == login(scram(), client("wrong"), RFC_7677)


def test_an_unknown_user_is_refused_even_by_a_right_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can make such a proof; should somebody ever know the fake's keys, they are still nobody's."""
    monkeypatch.setattr("elemta.auth.sasl.scram.fake_verifier", lambda name, secret: RFC_7677)
    assert login(scram(), client("pencil"), None) == Refused("the proof is wrong", Fault.CREDENTIALS)


# ---- what is refused -----------------------------------------------------------------------------

MALFORMED_FIRST = [
    pytest.param(b"", id="empty"),
    pytest.param(b"n=user,r=abc", id="no header"),
    pytest.param(b"x,,n=user,r=abc", id="unknown flag"),
    pytest.param(b"n,b=user,n=user,r=abc", id="no authzid"),
    pytest.param(b"n,,r=abc,n=user", id="the wrong order"),
    pytest.param(b"n,,n=user", id="no nonce"),
    pytest.param(b"n,,n=user,r=", id="empty nonce"),
    pytest.param(b"n,,n=user,r=a b", id="blank in the nonce"),
    pytest.param(b"n,,n=user,r=\xc3\xbc", id="nonce beyond ASCII"),
    pytest.param(b"n,,n=user,r=" + b"a" * 1025, id="long nonce"),
    pytest.param(b"n,,n=,r=abc", id="no name"),
    pytest.param(b"n,,n=us=er,r=abc", id="bare = in the name"),
    pytest.param(b"n,,n=us=2cer,r=abc", id="small hexadecimal"),
    pytest.param(b"n,,n=us\0er,r=abc", id="NUL in the name"),
    pytest.param(b"n,,n=us\r\ner,r=abc", id="CRLF in the name"),
    pytest.param(b"n,,n=\xff,r=abc", id="name that is not UTF-8"),
    pytest.param(b"n,,n=" + b"u" * 321 + b",r=abc", id="long name"),
    pytest.param(b"n,,m=x,n=user,r=abc", id="mandatory extension"),
    pytest.param(b"n,,n=user,r=abc,x", id="broken extension"),
    pytest.param(b"n,,n=user,r=abc\n", id="LF at the end"),
    pytest.param(b"p=tls-server-end-point,,n=user,r=abc", id="binding without -PLUS"),
]


@pytest.mark.parametrize("message", MALFORMED_FIRST)
def test_client_first_malformed(message: bytes) -> None:
    outcome = scram().step(message)
    assert isinstance(outcome, Refused)
    assert outcome.fault is Fault.MALFORMED


@pytest.mark.parametrize("header", [b"n,,", b"p=tls-unique,,", b"p=tls-exporter,,", b"p=,,", b"p=a b,,"])
def test_plus_wants_its_own_binding(header: bytes) -> None:
    outcome = scram(plus=True, binding=BINDING, offers_plus=True).step(header + b"n=user,r=abc")
    assert isinstance(outcome, Refused)
    assert outcome.fault is Fault.MALFORMED


def test_plus_without_a_channel() -> None:
    outcome = scram(plus=True).step(b"p=tls-server-end-point,,n=user,r=abc")
    assert isinstance(outcome, Refused)


@pytest.mark.parametrize(("header", "fits"), [(b"n,a=USER,", True), (b"n,a=root,", False), (b"n,a=use=3Dr,", False)])
def test_acting_as_another(header: bytes, fits: bool) -> None:
    outcome = scram().step(header + b"n=user,r=abc")
    assert outcome == (NeedVerifier("user") if fits else Refused("acting as another user", Fault.CREDENTIALS))


def test_extensions_are_skipped() -> None:
    assert scram().step(b"n,,n=user,r=abc,x=y,z=1=2") == NeedVerifier("user")


MALFORMED_FINAL = [
    pytest.param(b"", id="empty"),
    pytest.param(CLIENT_FINAL.removesuffix(b"," + PROOF), id="no proof"),
    pytest.param(PROOF, id="proof alone"),
    pytest.param(CLIENT_FINAL.replace(b"p=d", b"p=!"), id="proof that is no base64"),
    pytest.param(CLIENT_FINAL.removesuffix(b"VQ=") + b"=", id="short proof"),
    pytest.param(CLIENT_FINAL + b",x=y", id="extension behind the proof"),
    pytest.param(CLIENT_FINAL.replace(b"k0,", b"k1,"), id="another nonce"),
    pytest.param(CLIENT_FINAL.replace(b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", b""), id="the client's nonce alone"),
    pytest.param(b"r=abc,c=biws," + PROOF, id="the wrong order"),
]


@pytest.mark.parametrize("message", MALFORMED_FINAL)
def test_client_final_malformed(message: bytes) -> None:
    exchange = scram()
    exchange.step(CLIENT_FIRST)
    exchange.known(RFC_7677)
    outcome = exchange.step(message)
    assert isinstance(outcome, Refused)
    assert outcome.fault is Fault.MALFORMED


@pytest.mark.parametrize("binding", [b"c=eSws", b"c=biwsAA==", b"c=bixhPXUs"])
def test_another_header_in_the_end_than_in_the_beginning(binding: bytes) -> None:
    exchange = scram()
    exchange.step(CLIENT_FIRST)
    exchange.known(RFC_7677)
    outcome = exchange.step(CLIENT_FINAL.replace(b"c=biws", binding))
    assert outcome == Refused("the client sees another channel", Fault.CHANNEL)


@pytest.mark.parametrize("field", [b"r=rOprNGfwEbeRWgbNEkqO", b"p=dHzb"])
def test_a_changed_message_proves_nothing(field: bytes) -> None:
    """A right proof, repeated to a server with another nonce, or changed in one letter."""
    exchange = begin("SCRAM-SHA-256", Circumstances(nonce="another" if field[:1] == b"r" else SERVER_NONCE))
    exchange.step(CLIENT_FIRST)
    exchange.known(RFC_7677)
    changed = CLIENT_FINAL.replace(b"p=dHzb", b"p=eHzb") if field[:1] == b"p" else CLIENT_FINAL
    assert isinstance(exchange.step(changed), Refused)


def test_the_client_ends_with_nothing() -> None:
    exchange = scram()
    exchange.step(CLIENT_FIRST)
    exchange.known(RFC_7677)
    exchange.step(CLIENT_FINAL)
    assert isinstance(exchange.step(b"x"), Refused)


def test_a_verifier_out_of_turn() -> None:
    exchange = scram()
    with pytest.raises(OutOfTurn):
        exchange.known(RFC_7677)
    exchange.step(CLIENT_FIRST)
    with pytest.raises(OutOfTurn):
        exchange.step(CLIENT_FINAL)
    exchange.known(RFC_7677)
    with pytest.raises(OutOfTurn):
        exchange.known(RFC_7677)


def test_keys_and_secrets_are_not_shown() -> None:
    shown = repr(RFC_7677) + repr(Circumstances(secret=b"hush"))
    assert "stored_key" not in shown
    assert "hush" not in shown
