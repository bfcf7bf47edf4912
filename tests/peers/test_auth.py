"""Real clients log in at a real server: smtplib, swaks, curl, SCRAM over a real channel; guessers; users away."""

import base64
import hashlib
import json
import smtplib
import ssl
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import scramp

from elemta.testing.process import ServerProcess
from tests.conftest import ROOT
from tests.peers.test_hostile import warm_up
from tests.peers.wire import Door, Wire, cpu_seconds, encrypting, free_port, queued, resident_octets, wait_until

USER, PASSWORD = "alice@example.com", "correct horse"
MAIL = "Subject: hello\r\n\r\nhello\r\n"


def add_user(server: ServerProcess, name: str = USER, password: str = PASSWORD) -> None:
    command = [sys.executable, "-m", "elemta", "user", "add", "-c", str(server.folder / "elemta.conf"), name]
    subprocess.run(
        command, check=True, input=f"{password}\n", text=True, capture_output=True, cwd=server.folder, timeout=60
    )


def submission(folder: Path, certificate: Path, **auth: Any) -> ServerProcess:
    """A server that relays for its users alone: STARTTLS at its first listener, TLS at its second."""
    config: dict[str, Any] = {
        "hostname": "mail.example.com",
        "routes": [{"domain": "*", "transport": "discard"}],
        **encrypting(Door.IMPLICIT, certificate),
        "auth": {"enabled": True, "required": True, "datasource_path": str(folder / "users.db"), **auth},
    }
    config["tls"]["listen_addr"] = "127.0.0.1:0"
    return ServerProcess(folder, config)


def implicit_port(server: ServerProcess) -> int:
    return int(server.ready["listeners"][1]["port"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[ServerProcess]:
    mechanisms = ["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"]
    folder = tmp_path_factory.mktemp("submission")
    process = submission(folder, certificate, mechanisms=mechanisms, max_failures_per_address=1000)
    add_user(process)
    with process as running:
        yield running


# ---- the original's test scripts -----------------------------------------------------------------


@pytest.fixture
def original(tmp_path: Path) -> Iterator[ServerProcess]:
    """The original's example, in earnest but for its ports: its users are in a file that does not exist yet."""
    example = json.loads((ROOT / "conf" / "original-example.json").read_text())
    with ServerProcess(tmp_path, {**example, "listen_addr": "127.0.0.1:0", "queue_dir": str(tmp_path / "queue")}) as it:
        add_user(it, "testuser", "testpass")
        yield it


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_the_moves_of_the_originals_scripts(original: ServerProcess, mechanism: str) -> None:
    with smtplib.SMTP("127.0.0.1", original.port, timeout=30) as client:
        client.ehlo()
        assert client.esmtp_features["auth"].split() == ["PLAIN", "LOGIN"]
        client.user, client.password = "testuser", "testpass"
        authorise: Callable[..., str] = getattr(client, f"auth_{mechanism.lower()}")
        assert client.auth(mechanism, authorise) == (235, b"2.7.0 authentication succeeded")
        assert client.sendmail("anybody@example.org", ["r@example.net"], MAIL) == {}
    with smtplib.SMTP("127.0.0.1", original.port, timeout=30) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.login("testuser", "wrong")
        assert refused.value.smtp_code == 535
        assert client.sendmail("anybody@example.org", ["r@example.net"], MAIL) == {}, "plain mail, in dev mode"


# ---- clients over TLS ----------------------------------------------------------------------------


@pytest.mark.needs("swaks")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("door", [Door.STARTTLS, Door.IMPLICIT])
def test_swaks(server: ServerProcess, mechanism: str, door: Door) -> None:
    port = implicit_port(server) if door is Door.IMPLICIT else server.port
    said = swaks(port, door, mechanism, PASSWORD)
    assert said.returncode == 0, said.stdout
    assert "235 2.7.0" in said.stdout
    assert swaks(port, door, mechanism, "wrong").returncode == 28, "swaks' word for a login that was refused"
    wait_until(lambda: queued(server) == 0, "the mail is delivered")
    mails = [event for event in server.events if event["event"] == "mail.accepted"]
    assert {mail["user"] for mail in mails} == {USER}
    assert PASSWORD not in server.log


def swaks(port: int, door: Door, mechanism: str, password: str) -> "subprocess.CompletedProcess[str]":
    encrypted = "--tls-on-connect" if door is Door.IMPLICIT else "--tls"
    to = ["--server", "127.0.0.1", "--port", str(port), "--from", USER, "--to", "r@example.net", encrypted]
    login = ["--auth", mechanism, "--auth-user", USER, "--auth-password", password]
    return subprocess.run(["swaks", *to, *login], text=True, capture_output=True, timeout=60)


@pytest.mark.needs("curl")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_curl(server: ServerProcess, mechanism: str, tmp_path: Path) -> None:
    (tmp_path / "mail").write_text(MAIL)
    command = ["curl", "-sS", "-k", f"smtps://127.0.0.1:{implicit_port(server)}", "--mail-from", USER]
    command += ["--mail-rcpt", "r@example.net", "-T", str(tmp_path / "mail"), "--login-options", f"AUTH={mechanism}"]
    said = subprocess.run([*command, "-u", f"{USER}:{PASSWORD}"], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    said = subprocess.run([*command, "-u", f"{USER}:wrong"], capture_output=True, text=True, timeout=60)
    assert said.returncode == 67, "curl's word for a login that was refused"


@pytest.mark.parametrize("door", [Door.STARTTLS, Door.IMPLICIT])
@pytest.mark.parametrize("plus", [False, True])
def test_scram_over_a_real_channel(server: ServerProcess, door: Door, plus: bool) -> None:
    port = implicit_port(server) if door is Door.IMPLICIT else server.port
    with Wire(port, door=door) as wire:
        wire.greeting()
        offered = wire.ask(b"EHLO client.example\r\n")
        assert b"AUTH PLAIN LOGIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS\r\n" in offered
        assert isinstance(wire.socket, ssl.SSLSocket)
        shown = wire.socket.getpeercert(binary_form=True)
        assert shown is not None
        binding = ("tls-server-end-point", hashlib.sha256(shown).digest()) if plus else None
        mechanism = "SCRAM-SHA-256-PLUS" if plus else "SCRAM-SHA-256"
        assert scram(wire, scramp.ScramClient([mechanism], USER, PASSWORD, channel_binding=binding)).startswith(b"235")
    if plus:
        with Wire(port, door=door) as wire:
            wire.greeting()
            wire.ask(b"EHLO client.example\r\n")
            binding = ("tls-server-end-point", hashlib.sha256(b"another certificate").digest())
            client = scramp.ScramClient([mechanism], USER, PASSWORD, channel_binding=binding)
            assert scram(wire, client).startswith(b"535 5.7.8")


def scram(wire: Wire, client: scramp.ScramClient) -> bytes:
    """The whole dialogue; the last reply."""
    first = base64.b64encode(client.get_client_first().encode())
    said = wire.ask(b"AUTH %b %b\r\n" % (client.mechanism_name.encode(), first))
    client.set_server_first(base64.b64decode(said[4:]).decode())
    said = wire.ask(base64.b64encode(client.get_client_final().encode()) + b"\r\n")
    if not said.startswith(b"334"):
        return said
    client.set_server_final(base64.b64decode(said[4:]).decode())
    return wire.ask(b"\r\n")


def test_who_did_not_log_in_sends_nothing(server: ServerProcess) -> None:
    with Wire(server.port, door=Door.STARTTLS) as wire:
        wire.ask(b"EHLO client.example\r\n")
        assert wire.ask(b"MAIL FROM:<alice@example.com>\r\n").startswith(b"530 5.7.0")


def test_a_user_sends_as_nobody_else_and_no_trace_field_names_the_user(server: ServerProcess) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
        client.starttls(context=_trusting())
        client.login(USER, PASSWORD)
        assert client.mail("mallory@example.com")[0] == 553
        assert client.sendmail(USER, ["r@example.net"], MAIL) == {}


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_starttls_forgets_a_login_in_the_clear(tmp_path: Path, certificate: Path) -> None:
    """AUTH in the clear is for this machine; what was said before TLS counts for nothing, promise 11."""
    process = submission(tmp_path, certificate)
    add_user(process)
    plain = b"AUTH PLAIN " + base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()) + b"\r\n"
    with process as server, Wire(server.port) as wire:
        wire.reply()
        wire.ask(b"EHLO client.example\r\n")
        assert wire.ask(plain).startswith(b"235")
        assert wire.ask(b"STARTTLS\r\n").startswith(b"220")
        wire.encrypt()
        wire.ask(b"EHLO client.example\r\n")
        assert wire.ask(b"MAIL FROM:<alice@example.com>\r\n").startswith(b"530")
        assert wire.ask(plain).startswith(b"235")


# ---- guessers ------------------------------------------------------------------------------------


def guess(port: int, number: int, guesses: int = 3) -> list[int]:
    """One session of wrong passwords; the codes that it heard."""
    heard = []
    with Wire(port) as wire:
        wire.reply()
        wire.ask(b"EHLO client.example\r\n")
        for each in range(guesses):
            token = base64.b64encode(f"\0{USER}\0guess {number}.{each}".encode())
            said = wire.ask(b"AUTH PLAIN " + token + b"\r\n")
            if not said:
                break
            heard.append(int(said[:3]))
            if said.startswith(b"421"):
                break
    return heard


def local(folder: Path, *, dev_mode: bool = False, **auth: Any) -> ServerProcess:
    return ServerProcess(
        folder,
        {
            "hostname": "mail.example.com",
            "dev_mode": dev_mode,
            "allowed_relays": ["127.0.0.1"],
            "routes": [{"domain": "*", "transport": "inbox" if dev_mode else "discard"}],
            "limits": {"max_connections_per_address": 500},
            "auth": {"enabled": True, "datasource_path": str(folder / "users.db"), **auth},
        },
    )


def test_wrong_passwords_cost_little(tmp_path: Path) -> None:
    check_wrong_passwords(tmp_path, sessions=300)


def check_wrong_passwords(folder: Path, sessions: int) -> None:
    """Three guesses a session: who is locked out after ten costs a connection each, and no hash."""
    process = local(folder)
    add_user(process)
    with process as server:
        guess(server.port, 0, 1)
        before, memory = cpu_seconds(server.pid), resident_octets(server.pid)
        with ThreadPoolExecutor(20) as pool:
            heard = [
                code for codes in pool.map(lambda each: guess(server.port, each), range(sessions)) for code in codes
            ]
        assert heard.count(535) <= 9 + 20, "a guess that is looked at a thread more than the limit at most"
        assert heard.count(421) >= sessions - 20
        assert cpu_seconds(server.pid) - before < 2.0 + 0.005 * sessions
        assert resident_octets(server.pid) - memory < 64 * 1024 * 1024
        warm_up(server.port)
        wait_until(lambda: server.log.count('"session.ended"') == sessions + 2, "every session is logged, once")
        assert server.log.count('"auth.locked_out"') == 1


def test_a_flood_of_passwords_that_are_all_looked_at_leaves_others_served(tmp_path: Path) -> None:
    """Nobody is locked out here: each guess is hashed, in as many threads as there are for it, whoever waits."""
    process = local(
        tmp_path, max_failures_per_address=10**6, max_failures_per_network=10**6, max_failures_per_user=10**6
    )
    add_user(process)
    done = threading.Event()

    def keep_guessing(number: int) -> int:
        heard = 0
        while not done.is_set():
            heard += len(guess(process.port, number, 1))
        return heard

    with process as running, ThreadPoolExecutor(60) as pool:
        guess(running.port, 0, 1)
        memory = resident_octets(running.pid)
        floods = [pool.submit(keep_guessing, number) for number in range(60)]
        waits = []
        for _ in range(20):
            started = time.monotonic()
            with smtplib.SMTP("127.0.0.1", running.port, local_hostname="honest", timeout=30) as client:
                client.ehlo()
                client.noop()
            waits.append(time.monotonic() - started)
        done.set()
        looked_at = sum(flood.result() for flood in floods)
        assert looked_at > 20
        assert statistics.median(waits) < 1.0
        assert resident_octets(running.pid) - memory < 128 * 1024 * 1024, "threads x the memory of one hash"


def test_nobody_learns_who_exists(tmp_path: Path) -> None:
    # So few, on a machine that does other things too, say no more than that neither is answered at once.
    check_enumeration(tmp_path, guesses=15, tolerance=0.5)


def check_enumeration(folder: Path, guesses: int, tolerance: float) -> None:
    """Promise 13: the same text, and no faster for one than for the other. In dev mode, where no delay hides it."""
    process = local(folder, dev_mode=True)
    add_user(process)
    times: dict[str, list[float]] = {USER: [], "nobody@example.com": []}
    texts = set()
    with process as server:
        for number in range(guesses):
            for user, seen in times.items():
                token = base64.b64encode(f"\0{user}\0guess {number}".encode())
                with Wire(server.port) as wire:
                    wire.reply()
                    wire.ask(b"EHLO client.example\r\n")
                    started = time.monotonic()
                    texts.add(wire.ask(b"AUTH PLAIN " + token + b"\r\n"))
                    seen.append(time.monotonic() - started)
    assert texts == {b"535 5.7.8 authentication failed: wrong user or password\r\n"}
    known, unknown = (statistics.median(seen) for seen in times.values())
    assert known == pytest.approx(unknown, rel=tolerance)


# ---- users away ----------------------------------------------------------------------------------


def test_a_database_that_is_away_is_454_and_keeps_nothing_else_from_working(tmp_path: Path) -> None:
    dsn = f"postgresql://mail@127.0.0.1:{free_port()}/mail"
    config = {
        "hostname": "mail.example.com",
        "allowed_relays": ["127.0.0.1"],
        "routes": [{"domain": "*", "transport": "discard"}],
        "auth": {"enabled": True, "datasource_type": "postgresql", "datasource_dsn": dsn, "timeout": 3},
        "web": {"enabled": True, "listen_addr": "127.0.0.1:0"},
    }
    with ServerProcess(tmp_path, config) as server:
        with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
            with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
                client.login(USER, PASSWORD)
            assert refused.value.smtp_code == 454
            assert client.sendmail("s@example.org", ["r@example.net"], MAIL) == {}
        web = server.ready["web"]
        with urllib.request.urlopen(f"http://{web['host']}:{web['port']}/readyz", timeout=10) as answer:
            says = json.load(answer)
        assert says["ready"] is True
        assert "127.0.0.1" in says["checks"]["auth"]["reason"]
        assert [event["event"] for event in server.events].count("auth.users_away") == 1
