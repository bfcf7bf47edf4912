"""Attempts to log in: every mechanism, every refusal, deadlines, what a login leaves to be done."""

import pytest
import scramp
import trio
import trio.testing
from attrs import evolve

from elemta.auth.attempt import Answer, Attempt
from elemta.auth.authenticator import FIRST_RETRY_SECONDS, LOG_SECONDS, LOGIN_NOTE_SECONDS
from elemta.auth.base import UnfitUser
from elemta.auth.checks import MAX_CHECKS_OF_STRANGERS, MAX_CHECKS_PER_NETWORK, hashing_threads
from elemta.auth.limits import FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS, FailureLimits, Who
from elemta.auth.sasl.base import Challenge
from elemta.auth.scram import check_verifier, parse_verifier
from elemta.auth.verdicts import AWAY, LOCKED_OUT, MALFORMED, WRONG, Cause, ClientFacts, Denied, Granted
from elemta.config.auth import MECHANISMS, SenderRule
from elemta.mail.address import Address
from tests.auth.people import PASSWORD, WALL, House, inhabited

TLS = ClientFacts("192.0.2.1", encrypted=True)
BINDING = bytes(range(32))
BOUND = evolve(TLS, binding=BINDING)
WRONG_WORD = "looking-glass"

DENIED = Denied(WRONG, Cause.WRONG)


def plain(user: str, password: str) -> bytes:
    return f"\0{user}\0{password}".encode()


async def say(house: House, user: str, password: str, facts: ClientFacts = TLS) -> Answer:
    """One login by PLAIN."""
    return await house.authenticator.begin("PLAIN", facts).answer(plain(user, password))


def granted(answer: Answer) -> str:
    assert isinstance(answer, Granted), answer
    return answer.user


# ---- what is offered -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "offered"),
    [
        (ClientFacts("192.0.2.1"), ()),
        (ClientFacts("127.0.0.1", local=True), MECHANISMS[:-1]),
        (TLS, MECHANISMS[:-1]),
        (BOUND, MECHANISMS),
        (ClientFacts("127.0.0.1", local=True, binding=BINDING), MECHANISMS[:-1]),
    ],
)
def test_what_a_connection_is_offered(facts: ClientFacts, offered: tuple[str, ...]) -> None:
    assert House().authenticator.mechanisms(facts) == offered


# ---- passwords -----------------------------------------------------------------------------------


async def test_the_right_password(autojump_clock: object) -> None:
    async with inhabited() as house:
        answer = await say(house, "Alice@Example.com", PASSWORD)
        assert isinstance(answer, Granted)
        assert answer.user == "alice@example.com"
        assert answer.permit.allows(Address("sales", "example.com"))
        assert not answer.permit.allows(Address("bob", "example.com"))


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("alice@example.com", WRONG_WORD),
        ("nobody@example.com", PASSWORD),
        ("bob@example.com", PASSWORD),  # disabled
        ("tokens@example.com", PASSWORD),  # has no password
        ("old@example.com", "plain text"),  # what is stored is no hash, and never the password itself
    ],
)
async def test_every_wrong_login_is_answered_alike(user: str, password: str, autojump_clock: object) -> None:
    async with inhabited() as house:
        started = trio.current_time()
        assert await say(house, user, password) == DENIED
        assert trio.current_time() - started == pytest.approx(FIRST_DELAY_SECONDS)
        assert house.hasher.verified + house.hasher.pretended >= 1, "it cost a hash"


async def test_the_stored_hash_is_not_the_password(autojump_clock: object) -> None:
    async with inhabited() as house:
        for user in house.people.users.values():
            for secret in (user.password, user.scram):
                if secret:
                    answer = await say(house, user.name, secret, ClientFacts(f"10.0.0.{len(secret)}", encrypted=True))
                    assert answer == DENIED


async def test_login_takes_the_name_with_the_command_or_after_it(autojump_clock: object) -> None:
    async with inhabited() as house:
        attempt = house.authenticator.begin("LOGIN", TLS)
        assert await attempt.answer(None) == Challenge(b"Username:")
        assert await attempt.answer(b"alice@example.com") == Challenge(b"Password:")
        assert granted(await attempt.answer(PASSWORD.encode())) == "alice@example.com"
        attempt = house.authenticator.begin("LOGIN", TLS)
        assert await attempt.answer(b"alice@example.com") == Challenge(b"Password:")
        assert await attempt.answer(b"x") == DENIED
        assert attempt.claimed == "alice@example.com"


@pytest.mark.parametrize("response", [b"", b"no nul", b"\0a\0b\0c", b"\0\0p", b"\0a\0", b"\xff\0\xff\0x", b"\0a\nb\0p"])
async def test_what_is_no_plain_is_malformed_and_counts_for_nothing(response: bytes, autojump_clock: object) -> None:
    async with inhabited() as house:
        attempt = house.authenticator.begin("PLAIN", TLS)
        assert await attempt.answer(response) == Denied(MALFORMED, Cause.MALFORMED)
        assert house.book.standing_here(Who.of(TLS.address)).failures == 0


async def test_who_acts_as_another_user_is_wrong(autojump_clock: object) -> None:
    async with inhabited() as house:
        attempt = house.authenticator.begin("PLAIN", TLS)
        assert await attempt.answer(b"bob@example.com\0alice@example.com\0" + PASSWORD.encode()) == DENIED
        assert house.book.standing_here(Who.of(TLS.address)).failures == 1


async def test_a_password_that_was_right_is_not_hashed_again_for_a_while(autojump_clock: object) -> None:
    async with inhabited(cache_seconds=300.0) as house:
        await say(house, "alice@example.com", PASSWORD)
        await say(house, "alice@example.com", PASSWORD)
        assert house.hasher.verified == 1
        house.people.users["alice@example.com"] = evolve(house.people.users["alice@example.com"], is_active=False)
        assert await say(house, "alice@example.com", PASSWORD) == DENIED, "disabled since"
        house.people.users["alice@example.com"] = evolve(house.people.users["alice@example.com"], is_active=True)
        await trio.sleep(301)
        await say(house, "alice@example.com", PASSWORD)
        assert house.hasher.verified == 2


# ---- what a login leaves to be done --------------------------------------------------------------


async def test_an_old_hash_is_made_anew_with_a_verifier(autojump_clock: object) -> None:
    async with inhabited() as house:
        assert granted(await say(house, "carol@example.com", PASSWORD)) == "carol@example.com"
        await trio.sleep(1)
        carol = house.people.users["carol@example.com"]
        assert carol.password.startswith("$argon2id$")
        assert check_verifier(PASSWORD, parse_verifier(carol.scram))
        assert granted(await say(house, "carol@example.com", PASSWORD)) == "carol@example.com"
        await trio.sleep(1)
        assert house.people.asked["renew"] == 1


@pytest.mark.parametrize(
    ("failure", "event"),
    [
        (UnfitUser("memory: the value is too long for the column"), "auth.not_kept"),
        (RuntimeError("a defect"), "auth.chore_failed"),
    ],
)
async def test_a_table_that_refuses_a_new_hash_ends_nothing(
    failure: Exception, event: str, autojump_clock: object
) -> None:
    async with inhabited() as house:
        house.people.refuses = failure
        assert granted(await say(house, "carol@example.com", PASSWORD)) == "carol@example.com"
        await trio.sleep(1)
        assert granted(await say(house, "alice@example.com", PASSWORD)) == "alice@example.com"
        (told,) = house.events(event)
        assert told["error"] == str(failure)


async def test_no_verifier_is_made_where_there_is_no_scram(autojump_clock: object) -> None:
    async with inhabited(mechanisms=("PLAIN",)) as house:
        await say(house, "carol@example.com", PASSWORD)
        await trio.sleep(1)
        carol = house.people.users["carol@example.com"]
        assert (carol.password[:9], carol.scram) == ("$argon2id", "")


async def test_the_time_of_a_login_is_kept_once_an_hour(autojump_clock: object) -> None:
    async with inhabited() as house:
        for _ in range(3):
            await say(house, "alice@example.com", PASSWORD)
            await trio.sleep(1)
        await trio.sleep(LOGIN_NOTE_SECONDS)
        await say(house, "alice@example.com", PASSWORD)
        await trio.sleep(1)
        assert [name for name, _ in house.people.logins] == ["alice@example.com"] * 2
        assert house.people.logins[0][1] == pytest.approx(WALL, abs=1)


async def test_a_login_does_not_wait_for_what_it_leaves_to_be_done(autojump_clock: object) -> None:
    async with inhabited() as house:
        answer = await say(house, "carol@example.com", PASSWORD)
        house.people.hangs = True
        assert granted(answer) == "carol@example.com"


# ---- SCRAM ---------------------------------------------------------------------------------------


async def scram(house: House, client: scramp.ScramClient, facts: ClientFacts) -> Answer:
    attempt = house.authenticator.begin(client.mechanism_name, facts)
    answer = await attempt.answer(client.get_client_first().encode())
    if not isinstance(answer, Challenge):
        return answer
    client.set_server_first(answer.data.decode())
    answer = await attempt.answer(client.get_client_final().encode())
    if not isinstance(answer, Challenge):
        return answer
    client.set_server_final(answer.data.decode())
    return await attempt.answer(b"")


def scram_client(user: str, password: str, *, plus: bool = False, seen: bytes = BINDING) -> scramp.ScramClient:
    name = "SCRAM-SHA-256-PLUS" if plus else "SCRAM-SHA-256"
    return scramp.ScramClient([name], user, password, channel_binding=("tls-server-end-point", seen) if plus else None)


@pytest.mark.parametrize("plus", [False, True])
async def test_scram(plus: bool, autojump_clock: object) -> None:
    async with inhabited() as house:
        facts = BOUND if plus else TLS
        assert granted(await scram(house, scram_client("alice@example.com", PASSWORD, plus=plus), facts)) == (
            "alice@example.com"
        )
        assert house.hasher.verified == 0
        for user in ("nobody@example.com", "bob@example.com", "carol@example.com"):
            assert await scram(house, scram_client(user, PASSWORD, plus=plus), facts) == DENIED
        assert await scram(house, scram_client("alice@example.com", WRONG_WORD, plus=plus), facts) == DENIED
        assert house.book.standing_here(Who.of(TLS.address)).failures == 4


async def test_who_sees_another_channel_is_refused(autojump_clock: object) -> None:
    async with inhabited() as house:
        client = scram_client("alice@example.com", PASSWORD, plus=True, seen=bytes(32))
        assert await scram(house, client, BOUND) == Denied(WRONG, Cause.CHANNEL)


async def test_an_unfit_verifier_fits_nobody_and_is_told_to_the_operator(autojump_clock: object) -> None:
    async with inhabited() as house:
        alice = house.people.users["alice@example.com"]
        house.people.users[alice.name] = evolve(alice, scram="SCRAM-SHA-256$1:x$y:z")
        assert await scram(house, scram_client(alice.name, PASSWORD), TLS) == DENIED
        (event,) = house.events("auth.unknown_verifier")
        assert event["user"] == alice.name


# ---- tokens --------------------------------------------------------------------------------------


def xoauth2(user: str, token: str) -> bytes:
    return f"user={user}\x01auth=Bearer {token}\x01\x01".encode()


async def test_a_good_token(autojump_clock: object) -> None:
    async with inhabited() as house:
        attempt = house.authenticator.begin("XOAUTH2", TLS)
        assert granted(await attempt.answer(xoauth2("tokens@example.com", "good"))) == "tokens@example.com"
        attempt = house.authenticator.begin("OAUTHBEARER", TLS)
        assert granted(await attempt.answer(b"n,,\x01auth=Bearer good\x01\x01")) == "tokens@example.com"


@pytest.mark.parametrize(
    ("user", "token"),
    [
        ("tokens@example.com", "bad"),
        ("alice@example.com", "good"),
        ("bob@example.com", "of-bob"),
        ("x@example.net", "of-stranger"),
    ],
)
async def test_a_token_that_is_not_good_is_explained_then_refused(
    user: str, token: str, autojump_clock: object
) -> None:
    async with inhabited() as house:
        attempt = house.authenticator.begin("XOAUTH2", TLS)
        explained = await attempt.answer(xoauth2(user, token))
        assert isinstance(explained, Challenge)
        assert b'"status":"401"' in explained.data
        assert house.book.standing_here(Who.of(TLS.address)).failures == 1, "counted before the client can break off"
        assert await attempt.answer(b"") == DENIED
        assert house.book.standing_here(Who.of(TLS.address)).failures == 1, "and once"


async def test_a_validator_that_is_away(autojump_clock: object) -> None:
    async with inhabited() as house:
        house.tokens.away = True
        attempt = house.authenticator.begin("XOAUTH2", TLS)
        assert await attempt.answer(xoauth2("tokens@example.com", "good")) == Denied(AWAY, Cause.AWAY)
        assert house.book.standing_here(Who.of(TLS.address)).failures == 0


# ---- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
async def test_names_that_lead_to_one_user_share_what_may_be_guessed(mechanism: str, autojump_clock: object) -> None:
    limits = FailureLimits(per_address=100, per_network=100, per_user=3, lockout_seconds=900.0)
    async with inhabited(limits=limits) as house:
        # As a collation that takes accents for nothing answers, or a statement that finds users by address as well.
        names = ["álice@example.com", "alicé@example.com", "alíce@example.com"]
        house.people.users |= dict.fromkeys(names, house.people.users["alice@example.com"])

        async def guess(place: int, name: str, password: str) -> Answer:
            facts = ClientFacts(f"10.0.{place}.1", encrypted=True)
            if mechanism == "PLAIN":
                return await say(house, name, password, facts)
            return await scram(house, scram_client(name, password), facts)

        assert granted(await guess(9, names[0], PASSWORD)) == "alice@example.com"
        await trio.sleep(1)
        for place, name in enumerate(names):
            assert await guess(place, name, WRONG_WORD) == DENIED
        for name in ("alice@example.com", *names):
            assert await guess(8, name, PASSWORD) == Denied(LOCKED_OUT, Cause.LOCKED_OUT)
        assert granted(await guess(9, names[0], PASSWORD)) == "alice@example.com", "in the user's own network"


async def test_who_is_locked_out_is_not_looked_at(autojump_clock: object) -> None:
    async with inhabited(limits=FailureLimits(3, 50, 20, 900.0)) as house:
        for _ in range(3):
            assert await say(house, "alice@example.com", WRONG_WORD) == DENIED
        hashes, asked = house.hasher.verified, house.people.asked["find"]
        started = trio.current_time()
        assert await say(house, "alice@example.com", PASSWORD) == Denied(LOCKED_OUT, Cause.LOCKED_OUT)
        attempt = house.authenticator.begin("LOGIN", TLS)
        assert await attempt.answer(None) == Denied(LOCKED_OUT, Cause.LOCKED_OUT)
        assert trio.current_time() == pytest.approx(started)
        assert (house.hasher.verified, house.people.asked["find"]) == (hashes, asked)
        assert granted(await say(house, "alice@example.com", PASSWORD, ClientFacts("203.0.113.1", encrypted=True)))
        (event,) = house.events("auth.locked_out")
        assert (event["kind"], event["about"]) == ("address", "192.0.2.1")
        await trio.sleep(900)
        assert granted(await say(house, "alice@example.com", PASSWORD)) == "alice@example.com"


@pytest.mark.parametrize("user", ["alice@example.com", "nobody@example.com"])
async def test_a_user_who_is_guessed_at_from_everywhere(user: str, autojump_clock: object) -> None:
    async with inhabited(limits=FailureLimits(10, 50, 4, 900.0)) as house:
        home = ClientFacts("198.51.100.1", encrypted=True)
        await say(house, "alice@example.com", PASSWORD, home)
        await trio.sleep(1)
        for network in range(4):
            assert await say(house, user, WRONG_WORD, ClientFacts(f"10.0.{network}.1", encrypted=True)) == DENIED
        stranger = ClientFacts("10.0.99.1", encrypted=True)
        assert await say(house, user, PASSWORD, stranger) == Denied(LOCKED_OUT, Cause.LOCKED_OUT)
        assert granted(await say(house, "alice@example.com", PASSWORD, home)) == "alice@example.com"


async def test_replies_to_failures_come_later_and_later(autojump_clock: object) -> None:
    async with inhabited() as house:
        delays = []
        for _ in range(7):
            started = trio.current_time()
            await say(house, "alice@example.com", WRONG_WORD)
            delays.append(trio.current_time() - started)
        assert delays == pytest.approx([0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0])
        assert delays[-1] == pytest.approx(MAX_DELAY_SECONDS)


async def test_guesses_that_wait_together_are_not_all_looked_at(autojump_clock: object) -> None:
    async with inhabited(limits=FailureLimits(3, 50, 20, 900.0)) as house:
        answers: list[Answer] = []

        async def guess(number: int) -> None:
            answers.append(await say(house, "alice@example.com", f"guess {number}"))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(guess, number)
        assert len(answers) == 20
        assert house.hasher.verified <= 3 + hashing_threads(), "a guess a thread more than the limit at most"
        assert Denied(LOCKED_OUT, Cause.LOCKED_OUT) in answers


async def test_a_flood_from_one_network_is_answered_and_leaves_room(autojump_clock: object) -> None:
    async with inhabited(limits=FailureLimits(10**6, 10**6, 10**6, 900.0)) as house:
        answers: list[Answer] = []

        async def guess(number: int) -> None:
            answers.append(await say(house, f"u{number}@example.com", "x"))

        async with trio.open_nursery() as nursery:
            for number in range(MAX_CHECKS_PER_NETWORK + 20):
                nursery.start_soon(guess, number)
            other = await say(house, "alice@example.com", PASSWORD, ClientFacts("203.0.113.1", encrypted=True))
        assert granted(other) == "alice@example.com"
        assert answers.count(Denied(AWAY, Cause.AWAY)) == 20
        assert house.checks.waiting == 0


async def test_guesses_from_everywhere_leave_room_for_users_where_they_log_in(autojump_clock: object) -> None:
    """Strangers take three quarters of the places; who is known in a network waits behind none of them."""
    home = ClientFacts("203.0.113.1", encrypted=True)
    async with inhabited(limits=FailureLimits(10**6, 10**6, 10**6, 900.0), cache_seconds=0.0) as house:
        assert granted(await say(house, "alice@example.com", PASSWORD, home)) == "alice@example.com"
        answers: list[Answer] = []
        looked_at_before = 0

        async def guess(number: int) -> None:
            stranger = ClientFacts(f"198.51.{number}.1", encrypted=True)
            answers.append(await say(house, f"u{number}@example.com", "x", stranger))

        async with trio.open_nursery() as nursery:
            for number in range(MAX_CHECKS_OF_STRANGERS + 20):
                nursery.start_soon(guess, number)
            while True:
                await trio.lowlevel.checkpoint()
                if house.checks.waiting == MAX_CHECKS_OF_STRANGERS:
                    break
            assert granted(await say(house, "alice@example.com", PASSWORD, home)) == "alice@example.com"
            looked_at_before = house.hasher.pretended
        assert answers.count(Denied(AWAY, Cause.AWAY)) == 20
        assert looked_at_before < MAX_CHECKS_OF_STRANGERS / 2
        assert house.checks.waiting == 0


async def test_a_lock_out_is_told_once_however_many_fail_at_the_same_moment(autojump_clock: object) -> None:
    async with inhabited(limits=FailureLimits(3, 50, 20, 900.0)) as house:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(say, house, "alice@example.com", f"guess {number}")
        (told,) = house.events("auth.locked_out")
        assert (told["kind"], told["log_level"]) == ("address", "warning")


# ---- users who are away --------------------------------------------------------------------------


async def test_users_away_are_never_a_wrong_password(autojump_clock: object) -> None:
    async with inhabited() as house:
        house.people.away = True
        for _ in range(5):
            assert await say(house, "alice@example.com", PASSWORD) == Denied(AWAY, Cause.AWAY)
        assert house.authenticator.trouble == "memory: gone"
        assert len(house.events("auth.users_away")) == 1
        await trio.sleep(LOG_SECONDS)
        await say(house, "alice@example.com", PASSWORD)
        assert len(house.events("auth.users_away")) == 2
        house.people.away = False
        assert granted(await say(house, "alice@example.com", PASSWORD)) == "alice@example.com"
        assert house.authenticator.trouble == ""


async def test_users_that_hang_are_away_at_the_deadline(autojump_clock: object) -> None:
    async with inhabited() as house:
        house.people.hangs = True
        started = trio.current_time()
        assert await say(house, "alice@example.com", PASSWORD) == Denied(AWAY, Cause.AWAY)
        assert trio.current_time() - started == pytest.approx(10.0)


async def test_users_that_cannot_be_cancelled_are_away_at_the_deadline(autojump_clock: object) -> None:
    async with inhabited() as house:

        async def stubborn(name: str) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(60)

        house.people.find = stubborn  # type: ignore[method-assign]  # a database runs to its own deadline
        started = trio.current_time()
        assert await say(house, "alice@example.com", PASSWORD) == Denied(AWAY, Cause.AWAY)
        assert trio.current_time() - started == pytest.approx(10.0)


async def test_a_table_that_refuses_to_be_brought_up_to_date_ends_nothing(autojump_clock: object) -> None:
    house = House()
    house.people.refuses = UnfitUser("memory: a trigger forbids it")
    async with trio.open_nursery() as nursery:
        await nursery.start(house.authenticator.run)
        await trio.sleep(FIRST_RETRY_SECONDS / 2)
        assert await say(house, "alice@example.com", PASSWORD) == Denied(AWAY, Cause.AWAY)
        assert house.authenticator.trouble == "memory: a trigger forbids it"
        house.people.refuses = None
        await trio.sleep(FIRST_RETRY_SECONDS)
        assert granted(await say(house, "alice@example.com", PASSWORD)) == "alice@example.com"
        nursery.cancel_scope.cancel()


async def test_users_that_are_away_at_the_start_are_opened_later(autojump_clock: object) -> None:
    house = House()
    house.people.away = True
    async with trio.open_nursery() as nursery:
        await nursery.start(house.authenticator.run)
        assert await say(house, "alice@example.com", PASSWORD) == Denied(AWAY, Cause.AWAY)
        house.people.away = False
        await trio.sleep(FIRST_RETRY_SECONDS * 4)
        assert granted(await say(house, "alice@example.com", PASSWORD)) == "alice@example.com"
        nursery.cancel_scope.cancel()


async def test_an_attempt_that_is_cancelled_leaves_nothing_behind(autojump_clock: object) -> None:
    async with inhabited() as house:
        house.people.hangs = True
        with trio.move_on_after(1):
            await say(house, "alice@example.com", PASSWORD)
        house.people.hangs = False
        assert house.checks.waiting == 0
        assert granted(await say(house, "alice@example.com", PASSWORD)) == "alice@example.com"


async def test_no_memory_for_a_hash_is_nobodys_fault(autojump_clock: object) -> None:
    async with inhabited() as house:

        def exhausted(password: object, stored: str) -> None:
            raise MemoryError

        house.hasher.verify = exhausted  # type: ignore[method-assign,assignment]  # as argon2 says it
        assert await say(house, "alice@example.com", PASSWORD) == Denied(AWAY, Cause.AWAY)
        assert house.book.standing_here(Who.of(TLS.address)).failures == 0


async def test_no_secret_is_in_the_log_or_in_what_is_shown(autojump_clock: object) -> None:
    async with inhabited(senders=SenderRule.OWN) as house:
        await say(house, "alice@example.com", WRONG_WORD)
        attempt: Attempt = house.authenticator.begin("XOAUTH2", TLS)
        await attempt.answer(xoauth2("tokens@example.com", "s3cret-token"))
        house.people.away = True
        await say(house, "alice@example.com", WRONG_WORD)
        shown = repr(house.capture.entries) + repr(house.authenticator.options)
        assert WRONG_WORD not in shown
        assert "s3cret-token" not in shown
        assert "the server's secret" not in shown
