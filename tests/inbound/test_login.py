"""AUTH in sessions: dialogues of every mechanism, every refusal; who may send as whom; deadlines."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import scramp
import trio
import trio.testing
from attrs import evolve

from elemta.auth.limits import FailureLimits
from elemta.config.sections import TimeoutsSection
from elemta.inbound.options import ListenerOptions
from elemta.inbound.service import Bound, InboundService
from elemta.net.base import Endpoint
from tests.auth.people import LIMITS, PASSWORD, House
from tests.inbound.world import Client, World

ALICE = "alice@example.com"
WRONG = "535 5.7.8 authentication failed: wrong user or password"
AWAY = "454 4.7.0 temporary authentication failure, try again later"
LOCKED_OUT = "421 4.7.0 too many failed logins, try again later"
WELCOME = "235 2.7.0 authentication succeeded"

LISTENER = ListenerOptions(name="submission", address="memory", auth=True)


class Site:
    """An inbound service with AUTH, at a loopback address unless said otherwise."""

    def __init__(self, house: House, listener: ListenerOptions, local: str, **changes: Any) -> None:
        self.house = house
        self.world = World(**{"relays": ()} | changes)
        self.world.listener.local = Endpoint(local, 587)
        services = evolve(self.world.services, login=house.authenticator, metrics=house.metrics)
        self.service = InboundService(services, [Bound(listener, [self.world.listener])])

    async def client(self, host: str = "127.0.0.1") -> Client:
        """A client that has said EHLO."""
        client = self.world.connect(host)
        await client.reply()
        await client.say("EHLO client.example")
        return client


@asynccontextmanager
async def site(
    *,
    listener: ListenerOptions = LISTENER,
    local: str = "127.0.0.1",
    limits: FailureLimits = LIMITS,
    house: dict[str, Any] | None = None,
    **changes: Any,
) -> AsyncIterator[Site]:
    home = House(limits=limits, **(house or {}))
    here = Site(home, listener, local, **changes)
    async with trio.open_nursery() as nursery:
        await nursery.start(home.authenticator.run)
        await nursery.start(here.service.run)
        await trio.testing.wait_all_tasks_blocked()
        yield here
        nursery.cancel_scope.cancel()


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def plain(user: str = ALICE, password: str = PASSWORD) -> str:
    return b64(f"\0{user}\0{password}")


# ---- what is offered -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "local", "offered"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("::1", "::1", True),
        ("127.9.9.9", "127.0.0.1", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True),
        ("/run/client", "/run/elemta", True),
        ("", "/run/elemta", True),
        ("192.0.2.1", "192.0.2.25", False),
        ("127.0.0.1", "192.0.2.25", False),  # something on this machine forwards, or somebody forges
        ("192.0.2.1", "127.0.0.1", False),
    ],
)
async def test_in_the_clear_auth_is_for_this_machine(
    host: str, local: str, offered: bool, autojump_clock: object
) -> None:
    async with site(local=local) as here:
        client = here.world.connect(host)
        await client.reply()
        hello = await client.say("EHLO client.example")
        assert ("AUTH PLAIN LOGIN OAUTHBEARER XOAUTH2 SCRAM-SHA-256\n" in hello) is offered
        assert "PLUS" not in hello
        reply = await client.say(f"AUTH PLAIN {plain()}")
        assert reply.startswith("235" if offered else "502")
        assert here.house.people.asked["find"] == offered


async def test_a_listener_without_auth(autojump_clock: object) -> None:
    async with site(listener=ListenerOptions(name="mx", address="memory")) as here:
        client = await here.client()
        assert (await client.say(f"AUTH PLAIN {plain()}")).startswith("502")


async def test_auth_that_is_required(autojump_clock: object) -> None:
    async with site(listener=evolve(LISTENER, auth_required=True), relays=World().services.options.relays) as here:
        client = await here.client()
        assert (await client.say("MAIL FROM:<alice@example.com>")).startswith("530 5.7.0")
        assert await client.say(f"AUTH PLAIN {plain()}") == WELCOME
        assert (await client.say("MAIL FROM:<alice@example.com>")).startswith("250")


# ---- mechanisms ----------------------------------------------------------------------------------

DIALOGUES: list[list[tuple[str, str]]] = [
    [(f"AUTH PLAIN {plain()}", WELCOME)],
    [("AUTH PLAIN", "334 "), (plain(), WELCOME)],
    [("auth plain", "334 "), (plain(), WELCOME)],
    [("AUTH PLAIN =", "501 5.5.2 that does not follow the mechanism"), (f"AUTH PLAIN {plain()}", WELCOME)],
    [(f"AUTH PLAIN {b64(f'{ALICE}{chr(0)}{ALICE}{chr(0)}{PASSWORD}')}", WELCOME)],
    [(f"AUTH PLAIN {b64(f'bob@example.com{chr(0)}{ALICE}{chr(0)}{PASSWORD}')}", WRONG)],
    [(f"AUTH PLAIN {plain(password='x')}", WRONG), (f"AUTH PLAIN {plain()}", WELCOME)],
    [(f"AUTH PLAIN {plain(user='nobody')}", WRONG)],
    [("AUTH LOGIN", f"334 {b64('Username:')}"), (b64(ALICE), f"334 {b64('Password:')}"), (b64(PASSWORD), WELCOME)],
    [(f"AUTH LOGIN {b64(ALICE)}", f"334 {b64('Password:')}"), (b64(PASSWORD), WELCOME)],
    [(f"AUTH LOGIN {b64(ALICE)}", f"334 {b64('Password:')}"), (b64("x"), WRONG)],
    [("AUTH PLAIN", "334 "), ("*", "501 5.7.0 authentication cancelled"), (f"AUTH PLAIN {plain()}", WELCOME)],
    [("AUTH LOGIN", f"334 {b64('Username:')}"), ("*", "501 5.7.0 authentication cancelled"), ("NOOP", "250 2.0.0 ok")],
    # Base64 that is none ends the exchange, not the session.
    [("AUTH PLAIN not-base64!", "501 5.5.2 Cannot decode that, it is no base64"), ("NOOP", "250 2.0.0 ok")],
    [
        ("AUTH LOGIN", f"334 {b64('Username:')}"),
        ("%%%%", "501 5.5.2 Cannot decode that, it is no base64"),
        (f"AUTH PLAIN {plain()}", WELCOME),
    ],
    [
        ("AUTH GSSAPI", "504 5.5.4 Mechanism not offered"),
        ("AUTH SCRAM-SHA-256-PLUS", "504 5.5.4 Mechanism not offered"),
    ],
    [(f"AUTH PLAIN {plain()}", WELCOME), (f"AUTH PLAIN {plain()}", "503 5.5.1 Already authenticated")],
    [
        (f"AUTH XOAUTH2 {b64('user=tokens@example.com' + chr(1) + 'auth=Bearer good' + chr(1) * 2)}", WELCOME),
    ],
    [("AUTH OAUTHBEARER", "334 "), (b64("n,,\x01auth=Bearer good\x01\x01"), WELCOME)],
    [
        (
            f"AUTH OAUTHBEARER {b64('n,,' + chr(1) + 'auth=Bearer bad' + chr(1) * 2)}",
            f"334 {b64(json.dumps({'status': 'invalid_token', 'scope': 'mail'}, separators=(',', ':')))}",
        ),
        ("AQ==", WRONG),
        ("NOOP", "250 2.0.0 ok"),
    ],
]


@pytest.mark.parametrize("dialogue", DIALOGUES)
async def test_dialogues(dialogue: list[tuple[str, str]], autojump_clock: object) -> None:
    async with site() as here:
        client = await here.client()
        for line, reply in dialogue:
            said = await client.say(line)
            assert said == reply or (reply.startswith("250") and said.startswith("250")), line


async def test_scram_in_a_session(autojump_clock: object) -> None:
    async with site() as here:
        client = await here.client()
        peer = scramp.ScramClient(["SCRAM-SHA-256"], ALICE, PASSWORD)
        said = await client.say(f"AUTH SCRAM-SHA-256 {b64(peer.get_client_first())}")
        peer.set_server_first(base64.b64decode(said[4:]).decode())
        said = await client.say(b64(peer.get_client_final()))
        peer.set_server_final(base64.b64decode(said[4:]).decode())
        assert await client.say("") == WELCOME


async def test_auth_has_no_place_in_a_mail(autojump_clock: object) -> None:
    async with site(relays=World().services.options.relays) as here:
        client = await here.client()
        await client.say("MAIL FROM:<s@example.org>")
        assert (await client.say(f"AUTH PLAIN {plain()}")).startswith("503")
        await client.say("RCPT TO:<r@example.net>")
        assert (await client.send(f"AUTH PLAIN {plain()}\r\n".encode())).startswith("250")
        assert here.house.people.asked["find"] == 0
        (submission,) = here.world.queue.submitted
        assert submission.origin.user == ""


# ---- what a login gives --------------------------------------------------------------------------


async def test_a_user_may_relay_and_is_named_to_the_operator_alone(autojump_clock: object) -> None:
    async with site() as here:
        client = await here.client("127.0.0.1")
        await client.say("MAIL FROM:<s@example.org>")
        assert (await client.say("RCPT TO:<r@example.net>")).startswith("550 5.7.1")
        await client.say("RSET")
        await client.say(f"AUTH PLAIN {plain()}")
        assert (await client.say("MAIL FROM:<alice@example.com>")).startswith("250")
        assert (await client.say("RCPT TO:<r@example.net>")).startswith("250")
        assert (await client.send(b"Subject: x\r\n\r\n")).startswith("250")
        await client.say("QUIT")
        (submission,) = here.world.queue.submitted
        assert submission.origin.user == ALICE
        assert submission.origin.protocol == "ESMTPA"
        assert submission.content is not None
        assert b"with ESMTPA id " in submission.content
        assert b"alice" not in submission.content
        (event,) = here.world.events("mail.accepted")
        assert event["user"] == ALICE
        await trio.sleep(1)
        (event,) = here.world.events("session.ended")
        assert event["user"] == ALICE
        assert "failed_logins" not in event


@pytest.mark.parametrize(
    ("sender", "code"),
    [
        ("alice@example.com", "250"),
        ("ALICE+tag@EXAMPLE.COM", "250"),
        ("sales@example.com", "250"),
        ("", "250"),
        ("bob@example.com", "553 5.7.1"),
        ("alice@example.net", "553 5.7.1"),
    ],
)
async def test_a_user_sends_as_nobody_else(sender: str, code: str, autojump_clock: object) -> None:
    async with site() as here:
        client = await here.client()
        await client.say(f"AUTH PLAIN {plain()}")
        assert (await client.say(f"MAIL FROM:<{sender}>")).startswith(code)
        reply = await client.say("RCPT TO:<r@example.net>")
        assert reply.startswith("250" if code == "250" else "503")


async def test_who_did_not_log_in_sends_as_before(autojump_clock: object) -> None:
    async with site() as here:
        client = await here.client()
        assert (await client.say("MAIL FROM:<bob@example.com>")).startswith("250")
        assert (await client.say("RCPT TO:<alice@example.com>")).startswith("250")


# ---- refusals ------------------------------------------------------------------------------------


async def test_a_session_of_wrong_passwords_ends(autojump_clock: object) -> None:
    async with site(house={"failures": 3}) as here:
        client = await here.client()
        for number in range(3):
            assert await client.say(f"AUTH PLAIN {plain(password=f'guess {number}')}") == WRONG
        assert await client.reply() == LOCKED_OUT
        assert await client.reply() == ""
        await trio.sleep(1)
        (event,) = here.world.events("session.ended")
        assert event["cause"] == "too many failed logins"
        assert (event["failed_logins"], event["claimed"]) == (3, ALICE)
        assert not any("guess" in repr(entry) for entry in here.world.capture.entries)
        assert here.house.figure("elemta_auth_attempts_total", mechanism="PLAIN") == 3
        assert here.house.figure("elemta_auth_failures_total", cause="wrong") == 3


async def test_a_name_that_is_no_name_forges_no_line(autojump_clock: object) -> None:
    async with site() as here:
        client = await here.client()
        evil = b64(b'\0evil\n{"event":"forged"}\0x')
        assert (await client.say(f"AUTH PLAIN {evil}")).startswith("501 5.5.2")
        await client.say("QUIT")
        await trio.sleep(1)
        assert "forged" not in repr(here.world.capture.entries)


async def test_who_is_locked_out_hears_so_and_is_gone(autojump_clock: object) -> None:
    async with site(limits=FailureLimits(2, 50, 20, 900.0)) as here:
        client = await here.client()
        for _ in range(2):
            assert await client.say(f"AUTH PLAIN {plain(password='x')}") == WRONG
        assert await client.say(f"AUTH PLAIN {plain()}") == LOCKED_OUT
        assert await client.reply() == ""
        client = await here.client()
        assert await client.say("AUTH LOGIN") == LOCKED_OUT
        assert await client.reply() == ""
        hashes = here.house.hasher.verified
        assert hashes == 2
        await trio.sleep(900)
        client = await here.client()
        assert await client.say(f"AUTH PLAIN {plain()}") == WELCOME
        assert here.house.figure("elemta_auth_failures_total", cause="locked out") == 2
        assert here.house.figure("elemta_auth_successes_total", mechanism="PLAIN") == 1


async def test_users_away_are_454_and_the_session_lives(autojump_clock: object) -> None:
    async with site() as here:
        here.house.people.away = True
        client = await here.client()
        for _ in range(5):
            assert await client.say(f"AUTH PLAIN {plain()}") == AWAY
        here.house.people.away = False
        assert await client.say(f"AUTH PLAIN {plain()}") == WELCOME


async def test_users_that_hang_are_454_at_their_deadline_and_not_a_timeout(autojump_clock: object) -> None:
    timeouts = TimeoutsSection(command_timeout=3.0)
    async with site(timeouts=timeouts) as here:
        here.house.people.hangs = True
        client = await here.client()
        started = trio.current_time()
        assert await client.say(f"AUTH PLAIN {plain()}") == AWAY
        assert trio.current_time() - started == pytest.approx(10.0)
        here.house.people.hangs = False
        assert await client.say(f"AUTH PLAIN {plain()}") == WELCOME


async def test_a_client_that_never_answers_the_challenge_is_gone_at_the_deadline(autojump_clock: object) -> None:
    async with site(timeouts=TimeoutsSection(command_timeout=30.0)) as here:
        client = await here.client()
        started = trio.current_time()
        await client.say("AUTH LOGIN")
        assert (await client.reply()).startswith("421 4.4.2")
        assert trio.current_time() - started == pytest.approx(30.0, abs=0.5)


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_drain_in_the_middle_of_a_login(hangs: bool, autojump_clock: object) -> None:
    async with site() as here:
        here.house.people.hangs = hangs
        client = await here.client()
        if hangs:
            await client.stream.send_all(f"AUTH PLAIN {plain()}\r\n".encode())
        else:
            await client.say("AUTH LOGIN")
        await trio.testing.wait_all_tasks_blocked()
        await here.service.drain(2.0)
        assert (await client.reply()).startswith("421 4.3.2")
        assert here.house.checks.waiting == 0


async def test_a_client_that_leaves_while_it_is_looked_at(autojump_clock: object) -> None:
    async with site() as here:
        client = await here.client()
        await client.stream.send_all(f"AUTH PLAIN {plain(password='x')}\r\n".encode())
        await client.stream.aclose()
        await trio.sleep(30)
        assert here.service.open_connections == 0
        assert here.house.metrics.registry.get_sample_value("elemta_auth_failures_total", {"cause": "wrong"}) == 1


async def test_garbage_in_an_exchange_counts_as_bad_commands_do(autojump_clock: object) -> None:
    async with site() as here:
        client = await here.client()
        replies = [await client.say("AUTH PLAIN ====") for _ in range(11)]
        assert replies[:10] == ["501 5.5.2 Cannot decode that, it is no base64"] * 10
        assert replies[10].startswith("421")
