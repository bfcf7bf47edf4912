"""Plugins on a whole server beside STARTTLS and AUTH: what they see at each stage, what they may refuse.

What is not here: verdicts and their replies (`tests/inbound/test_plugged.py`), logins themselves (`test_auth`).
"""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import scramp

from elemta.testing.process import ServerProcess
from tests.peers.test_auth import PASSWORD, USER, add_user, scram
from tests.peers.test_plugged_server import plugin
from tests.peers.wire import Door, Wire, codes, encrypting, wait_until

#: Tells what it is told at every stage, and counts its own notes.
WITNESS = """\
    def saw(self, stage, session):
        notes = session.notes[self] = session.notes.get(self, 0) + 1
        self.host.log.info(
            "seen", stage=stage, helo=session.helo, tls=session.tls, cipher=session.cipher, user=session.user,
            mechanism=session.mechanism, may_relay=session.may_relay, notes=notes, score=session.score,
        )
        return CONTINUE

    async def on_connect(self, session):
        return self.saw("connect", session)

    async def on_helo(self, session):
        return self.saw("helo", session)

    async def on_auth(self, session):
        self.saw("auth", session)
        return Reject("not at this hour", 535, "5.7.1") if session.helo == "night.example" else CONTINUE

    async def on_mail_from(self, mail):
        return self.saw("mail", mail.session)

    async def on_disconnect(self, session):
        self.saw("disconnect", session)
"""


@pytest.fixture
def server(tmp_path: Path, certificate: Path) -> Iterator[ServerProcess]:
    config: dict[str, Any] = {
        "hostname": "mail.example.com",
        "routes": [{"domain": "*", "transport": "discard"}],
        **encrypting(Door.STARTTLS, certificate),
        "listeners": [{"address": "127.0.0.1:0", "tls": "starttls", "auth": True}],
        "auth": {
            "enabled": True,
            "datasource_path": str(tmp_path / "users.db"),
            "mechanisms": ["PLAIN", "LOGIN", "SCRAM-SHA-256"],
        },
        "plugins": {"plugins": [plugin(tmp_path, "witness", WITNESS)]},
    }
    process = ServerProcess(tmp_path, config)
    add_user(process)
    with process as running:
        yield running


def seen(server: ServerProcess) -> list[dict[str, Any]]:
    """What the witness told, once its first session is over."""

    def told() -> list[dict[str, Any]]:
        return [event for event in server.events if event["event"] == "seen"]

    wait_until(lambda: any(event["stage"] == "disconnect" for event in told()), "the session is over")
    return told()


@contextmanager
def encrypted(server: ServerProcess, helo: str) -> Iterator[Wire]:
    """A client that said one name in the clear, and says another one over TLS."""
    with Wire(server.port) as wire:
        wire.reply()
        assert codes(wire.ask(b"EHLO clear.example\r\n")) == [250]
        assert codes(wire.ask(b"STARTTLS\r\n")) == [220]
        wire.encrypt()
        assert codes(wire.ask(f"EHLO {helo}\r\n".encode())) == [250]
        yield wire


def log_in(wire: Wire, mechanism: str) -> bytes:
    """Log in with the right password; the last reply."""
    name, password = (base64.b64encode(word.encode()) + b"\r\n" for word in (USER, PASSWORD))
    if mechanism == "PLAIN":
        return wire.ask(b"AUTH PLAIN " + base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()) + b"\r\n")
    if mechanism == "LOGIN":
        assert codes(wire.ask(b"AUTH LOGIN\r\n") + wire.ask(name)) == [334, 334]
        return wire.ask(password)
    return scram(wire, scramp.ScramClient([mechanism], USER, PASSWORD))


def test_what_is_known_of_a_client_at_each_stage(server: ServerProcess) -> None:
    """RFC 3207 §4.2: behind STARTTLS nothing is left of the EHLO before it; a plugin's own notes are the plugin's."""
    with encrypted(server, "day.example") as wire:
        assert codes(log_in(wire, "PLAIN")) == [235]
        assert codes(wire.ask(f"MAIL FROM:<{USER}>\r\n".encode())) == [250]
        assert codes(wire.ask(b"QUIT\r\n")) == [221]
    facts = ("stage", "helo", "tls", "user", "mechanism", "may_relay", "notes")
    clear, safe = ("", "", "", False), ("TLSv1.3", "", "", False)
    known = ("TLSv1.3", USER, "PLAIN", True)
    assert [tuple(event[fact] for fact in facts) for event in seen(server)] == [
        ("connect", "", *clear, 1),
        ("helo", "clear.example", *clear, 2),
        ("helo", "day.example", *safe, 3),
        ("auth", "day.example", *known, 4),
        ("mail", "day.example", *known, 5),
        ("disconnect", "day.example", *known, 6),
    ]
    assert all(bool(event["cipher"]) is bool(event["tls"]) for event in seen(server))


def test_a_client_that_leaves_behind_starttls_leaves_no_name(server: ServerProcess) -> None:
    with encrypted(server, "day.example") as wire:
        assert codes(wire.ask(f"MAIL FROM:<{USER}>\r\n".encode())) == [250]
        assert codes(wire.ask(b"RCPT TO:<r@example.net>\r\n")) == [550], "nobody relays before AUTH"
    last = seen(server)[-1]
    assert [last[fact] for fact in ("stage", "helo", "user", "may_relay")] == ["disconnect", "day.example", "", False]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "SCRAM-SHA-256"])
def test_a_plugin_may_refuse_who_has_the_right_password(server: ServerProcess, mechanism: str) -> None:
    with encrypted(server, "night.example") as wire:
        for other in ("PLAIN", mechanism):
            assert log_in(wire, other) == b"535 5.7.1 not at this hour\r\n"
        assert codes(wire.ask(b"MAIL FROM:<s@example.org>\r\n")) == [250], "whose address it is, nobody asks"
        assert codes(wire.ask(b"RCPT TO:<r@example.net>\r\n")) == [550], "nothing is left of the login"
        assert codes(wire.ask(b"RSET\r\nEHLO day.example\r\n") + wire.reply()) == [250, 250]
        assert codes(log_in(wire, mechanism)) == [235], "and the next one is asked about anew"
        assert codes(log_in_again(wire)) == [503], "RFC 4954 §4: once is enough"
        assert codes(wire.ask(f"MAIL FROM:<{USER}>\r\n".encode())) == [250]
        assert codes(wire.ask(b"RCPT TO:<r@example.net>\r\n")) == [250]
        assert codes(wire.ask(b"QUIT\r\n")) == [221]
    facts = ("stage", "user", "mechanism", "may_relay")
    assert [tuple(event[fact] for fact in facts) for event in seen(server) if event["stage"] != "helo"] == [
        ("connect", "", "", False),
        ("auth", USER, "PLAIN", True),
        ("auth", USER, mechanism, True),
        ("mail", "", "", False),
        ("auth", USER, mechanism, True),
        ("mail", USER, mechanism, True),
        ("disconnect", USER, mechanism, True),
    ]
    assert PASSWORD not in server.log


def log_in_again(wire: Wire) -> bytes:
    return wire.ask(b"AUTH PLAIN AGEAYg==\r\n")


def test_a_refused_login_is_forgotten_to_the_end(server: ServerProcess) -> None:
    with encrypted(server, "night.example") as wire:
        assert codes(log_in(wire, "PLAIN")) == [535]
        assert codes(wire.ask(b"QUIT\r\n")) == [221]
    wait_until(lambda: seen(server)[-1]["stage"] == "disconnect", "the session has ended")
    last = seen(server)[-1]
    assert [last[fact] for fact in ("stage", "user", "may_relay")] == ["disconnect", "", False]
