"""Real clients over TLS at a real server, hostile ones among them; certificates that change while sessions are open."""

import datetime
import io
import os
import signal
import smtplib
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import pytest
import trustme

from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.datasource.servers import SERVERS, empty_database
from tests.peers.sslyze import INSTALL_SECONDS, SCAN_SECONDS, find_sslyze, findings
from tests.peers.test_workers import dsn_of
from tests.peers.wire import Door, Wire, wait_until

NAME, OTHER = "mx.example.com", "mx.example.net"
SENDER, RECIPIENT = "sender@example.org", "recipient@example.net"
MAIL = "Subject: hello\r\n\r\nhello\r\n"


class Certificates:
    """An authority, and the files that a server reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(str(folder / "ca.pem"))

    def write(self, name: str, *names: str, key_type: trustme.KeyType = trustme.KeyType.ECDSA) -> dict[str, str]:
        """Issue a certificate for 90 days; the section that names it. What was there is replaced at once."""
        now = datetime.datetime.now(datetime.UTC)
        begins, ends = now - datetime.timedelta(hours=1), now + datetime.timedelta(days=90)
        issued = self.authority.issue_cert(*names, not_before=begins, not_after=ends, key_type=key_type)
        self.put(name, issued.private_key_and_cert_chain_pem.bytes())
        path = str(self.folder / f"{name}.pem")
        return {"cert_file": path, "key_file": path}

    def put(self, name: str, octets: bytes) -> None:
        """Put these octets in a certificate's place."""
        fresh = self.folder / f"{name}.new"
        fresh.write_bytes(octets)
        fresh.chmod(0o600)
        fresh.rename(self.folder / f"{name}.pem")

    def trusting(self) -> ssl.SSLContext:
        """A client's context."""
        return ssl.create_default_context(cafile=str(self.folder / "ca.pem"))


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def secure(folder: Path, office: Certificates, **tls: Any) -> ServerProcess:
    """A server with STARTTLS at its first listener, TLS from the first octet at its second."""
    config = {
        "hostname": NAME,
        "allowed_relays": ["127.0.0.1"],
        "routes": [{"domain": "*", "transport": "discard"}],
        "limits": {"max_idle_commands": 1_000_000},
        "listeners": [{"address": "127.0.0.1:0", "tls": "starttls"}, {"address": "127.0.0.1:0", "tls": "implicit"}],
        "tls": {"enabled": True, **office.write("one", NAME, "localhost"), **tls},
    }
    return ServerProcess(folder, config)


@pytest.fixture
def server(tmp_path: Path, certificates: Certificates) -> Iterator[ServerProcess]:
    with secure(tmp_path, certificates) as running:
        yield running


def implicit_port(server: ServerProcess) -> int:
    return int(server.ready["listeners"][1]["port"])


def events(server: ServerProcess, name: str) -> list[dict[str, Any]]:
    return [event for event in server.events if event["event"] == name]


# ---- ordinary clients ----------------------------------------------------------------------------


def test_smtplib(tmp_path: Path, certificates: Certificates) -> None:
    with RecordingSink() as sink:
        config = {
            "hostname": NAME,
            "allowed_relays": ["127.0.0.1"],
            "routes": [{"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": sink.port}],
            "listeners": [
                {"address": "127.0.0.1:0", "tls": "starttls"},
                {"address": "127.0.0.1:0", "tls": "implicit"},
            ],
            "tls": {"enabled": True, **certificates.write("one", "localhost")},
        }
        with ServerProcess(tmp_path, config) as server:
            body = MAIL + "line of a large mail\r\n" * 100_000
            with smtplib.SMTP("localhost", server.port, local_hostname="client", timeout=60) as client:
                client.starttls(context=certificates.trusting())
                client.sendmail(SENDER, [RECIPIENT], body)
            port, trusting = implicit_port(server), certificates.trusting()
            with smtplib.SMTP_SSL("localhost", port, local_hostname="client", context=trusting, timeout=60) as client:
                client.sendmail(SENDER, [RECIPIENT], body)
            sink.wait_for(2)
        for caught in sink.mails:
            trace, _, rest = caught.content.partition(b"Subject: ")
            assert b" with ESMTPS id " in trace
            assert b"(using TLSv1.3 with cipher TLS_" in trace
            assert b"Subject: " + rest == body.encode()


@pytest.mark.needs("swaks")
@pytest.mark.parametrize("option", ["--tls", "--tls-on-connect"])
def test_swaks(server: ServerProcess, certificates: Certificates, option: str) -> None:
    port = server.port if option == "--tls" else implicit_port(server)
    command = ["swaks", "--server", "localhost", "--port", str(port), "--from", SENDER, "--to", RECIPIENT, option]
    trust = ["--tls-verify", "--tls-ca-path", str(certificates.folder / "ca.pem")]
    said = subprocess.run([*command, *trust], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "TLS started with cipher TLSv1.3" in said.stdout


@pytest.mark.needs("curl")
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_curl(server: ServerProcess, certificates: Certificates, tmp_path: Path, scheme: str) -> None:
    (tmp_path / "mail").write_text(MAIL)
    port = server.port if scheme == "smtp" else implicit_port(server)
    to = [f"{scheme}://localhost:{port}", "--mail-from", SENDER, "--mail-rcpt", RECIPIENT, "-T", str(tmp_path / "mail")]
    trust = ["--ssl-reqd", "--cacert", str(certificates.folder / "ca.pem")]
    said = subprocess.run(["curl", "-sS", *to, *trust], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    assert len(events(server, "mail.accepted")) == 1


# ---- openssl -------------------------------------------------------------------------------------


def s_client(port: int, *options: str, said: bytes = b"QUIT\r\n") -> str:
    """What `openssl s_client` prints, who says `said`."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-ign_eof", *options]
    ended = subprocess.run(command, input=said, capture_output=True, timeout=60)
    return (ended.stdout + ended.stderr).decode(errors="replace")


@pytest.mark.needs("openssl")
def test_certificates_by_name(tmp_path: Path, certificates: Certificates) -> None:
    further = [certificates.write("two", "*.example.net"), certificates.write("three", "third.example")]
    trust = ("-CAfile", str(certificates.folder / "ca.pem"), "-verify_return_error")
    with secure(tmp_path, certificates, certificates=further) as server:
        for asked in (NAME, OTHER, "third.example"):
            for port, options in ((server.port, ("-starttls", "smtp")), (implicit_port(server), ())):
                said = s_client(port, *options, *trust, "-servername", asked, "-verify_hostname", asked)
                assert "Verification: OK" in said, said
        said = s_client(server.port, "-starttls", "smtp", *trust, "-noservername", "-verify_hostname", NAME)
        assert "Verification: OK" in said


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_sessions_are_resumed(server: ServerProcess, tmp_path: Path, version: str) -> None:
    port, session = implicit_port(server), str(tmp_path / "session")
    assert f"New, TLSv1.{version[-1]}" in s_client(port, version, "-sess_out", session)
    assert f"Reused, TLSv1.{version[-1]}" in s_client(port, version, "-sess_in", session)


class Talk:
    """A talk with `openssl s_client`, which obeys lines that begin with `K` or `R`."""

    def __init__(self, port: int, *options: str) -> None:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-crlf", *options]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def say(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def hear(self, wanted: bytes) -> None:
        """Read until this was printed."""
        assert isinstance(self._process.stdout, io.BufferedReader)
        heard = b""
        while wanted not in heard:
            piece = self._process.stdout.read1(4096)
            assert piece, heard
            heard += piece


@pytest.mark.needs("openssl")
def test_keys_are_changed_in_a_session(server: ServerProcess) -> None:
    """`K` has s_client ask for new keys on both sides (RFC 8446 §4.6.3), which our reading must answer."""
    with Talk(implicit_port(server)) as talk:
        talk.hear(b"220 mx.example.com")
        for _ in range(3):
            talk.say(b"K")
            talk.hear(b"KEYUPDATE")
            talk.say(b"NOOP")
            talk.hear(b"250 2.0.0")
        talk.say(b"quit")  # in small letters: `Q` is s_client's own
        talk.hear(b"221 ")
    wait_until(lambda: bool(events(server, "session.ended")), "the session ends")
    assert events(server, "session.ended")[0]["cause"] == "quit"


@pytest.mark.needs("openssl")
def test_a_client_may_not_begin_anew(server: ServerProcess) -> None:
    with Talk(implicit_port(server), "-tls1_2") as talk:
        talk.hear(b"220 mx.example.com")
        talk.say(b"R")
        talk.hear(b"no renegotiation")
    assert s_client(implicit_port(server)).count("220 mx.example.com") == 1, "others are served"
    assert not events(server, "session.failed")


# ---- hostile clients -----------------------------------------------------------------------------


def test_what_is_said_in_the_clear_behind_starttls_does_not_count(server: ServerProcess) -> None:
    with Wire(server.port) as wire:
        wire.greeting()
        wire.ask(b"EHLO client.example\r\n")
        wire.send(b"STARTTLS\r\nMAIL FROM:<injected@example.org>\r\nRCPT TO:<r@example.net>\r\n")
        assert wire.reply().startswith(b"554 ")
        assert wire.reply() == b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
        raw.recv(1000)
        raw.sendall(b"EHLO client.example\r\n")
        raw.recv(1000)
        raw.sendall(b"STARTTLS\r\n")
        assert raw.recv(1000).startswith(b"220 ")
        raw.sendall(b"MAIL FROM:<injected@example.org>\r\n")  # into the handshake, which it breaks
        rest = b""
        with suppress(ConnectionResetError):
            while piece := raw.recv(1000):
                rest += piece
        assert b"250" not in rest
    assert not events(server, "mail.accepted")


def test_starttls_is_said_once(server: ServerProcess) -> None:
    with Wire(server.port, door=Door.STARTTLS) as wire:
        wire.ask(b"EHLO client.example\r\n")
        assert wire.ask(b"STARTTLS\r\n").startswith(b"503 ")
        assert wire.ask(b"NOOP\r\n").startswith(b"250 ")
    with Wire(implicit_port(server), door=Door.IMPLICIT) as wire:
        wire.greeting()
        assert b"STARTTLS" not in wire.ask(b"EHLO client.example\r\n")
        assert wire.ask(b"STARTTLS\r\n").startswith(b"503 ")


def test_a_stalled_handshake_is_closed_in_time(tmp_path: Path, certificates: Certificates) -> None:
    seconds = 1.0
    with secure(tmp_path, certificates, handshake_timeout=seconds) as server:
        with socket.create_connection(("127.0.0.1", implicit_port(server)), timeout=30) as raw:
            began = time.monotonic()
            raw.sendall(b"\x16\x03\x01")
            with suppress(ConnectionResetError):
                assert raw.recv(1000) == b""
            assert seconds * 0.9 <= time.monotonic() - began <= seconds + 5
        wait_until(lambda: bool(events(server, "session.ended")), "the session ends")
        assert events(server, "session.ended")[0]["cause"] == "no TLS: the handshake took more than 1 s"


# ---- certificates that change --------------------------------------------------------------------


def shown(server: ServerProcess) -> str:
    """The fingerprint of the certificate that a new client is shown."""
    with Wire(implicit_port(server), door=Door.IMPLICIT) as wire:
        return fingerprint(wire)


def fingerprint(wire: Wire) -> str:
    assert isinstance(wire.socket, ssl.SSLSocket)
    der = wire.socket.getpeercert(binary_form=True)
    assert der is not None
    return der.hex()


def test_a_new_certificate_is_served_without_dropping_a_session(
    server: ServerProcess, certificates: Certificates
) -> None:
    with Wire(server.port, door=Door.STARTTLS) as wire:
        wire.ask(b"EHLO client.example\r\n")
        old = shown(server)
        certificates.write("one", NAME)
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: len(events(server, "tls.loaded")) == 2, "the certificate is read")
        assert shown(server) != old
        assert fingerprint(wire) == old
        assert wire.ask(b"MAIL FROM:<s@example.org>\r\n").startswith(b"250 ")
        certificates.write("one", NAME)  # and nobody says so
        wait_until(lambda: len(events(server, "tls.loaded")) == 3, "the change is seen")
        assert events(server, "tls.loaded")[-1]["cause"] == "file changed"
        assert wire.ask(b"RCPT TO:<r@example.net>\r\n").startswith(b"250 ")
        assert wire.ask(b"QUIT\r\n").startswith(b"221 ")


def test_a_broken_certificate_keeps_the_old_one(server: ServerProcess, certificates: Certificates) -> None:
    old = shown(server)
    certificates.put("one", b"-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n")
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: bool(events(server, "tls.reload_failed")), "the failure is said")
    event = events(server, "tls.reload_failed")[0]
    assert "one.pem" in event["error"]
    assert event["kept"] == [NAME]
    assert shown(server) == old


@pytest.mark.parametrize("dialect", SERVERS[:1])
def test_every_worker_reads_a_new_certificate(tmp_path: Path, certificates: Certificates, dialect: Any) -> None:
    with empty_database(dialect) as options:
        config = {
            "hostname": NAME,
            "processes": 2,
            "storage": {"type": dialect.value, "dsn": dsn_of(options)},
            "listeners": [{"address": "127.0.0.1:0", "tls": "starttls"}, {"address": "127.0.0.1:0", "tls": "implicit"}],
            "tls": {"enabled": True, **certificates.write("one", NAME)},
        }
        with ServerProcess(tmp_path, config) as server:
            old = shown(server)
            certificates.write("one", NAME)
            os.kill(server.pid, signal.SIGHUP)  # to the parent, which passes it on
            wait_until(lambda: len(events(server, "tls.loaded")) == 4, "both workers have read it")
            assert {event["worker"] for event in events(server, "tls.loaded")[2:]} == {1, 2}
            assert old not in {shown(server) for _ in range(10)}


# ---- many handshakes -----------------------------------------------------------------------------


def plain_p95(port: int, seconds: float) -> float:
    """Seconds that 19 of 20 exchanges of a client in the clear take at most."""
    taken = []
    with Wire(port) as wire:
        wire.greeting()
        wire.ask(b"HELO client.example\r\n")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begin = time.perf_counter()
            wire.ask(b"RSET\r\n")
            taken.append(time.perf_counter() - begin)
    return statistics.quantiles(taken, n=20)[-1]


#: Clients of a process of their own, so that they do not slow the one that measures: each does nothing but shake hands.
_FLOOD = """
import socket, ssl, sys, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
def shake():
    while True:
        try:
            with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10) as raw:
                context.wrap_socket(raw).close()
        except OSError:
            pass
for _ in range(int(sys.argv[2])):
    threading.Thread(target=shake).start()
"""


@contextmanager
def flood(port: int, clients: int) -> Iterator[None]:
    """Handshakes as fast as these clients can."""
    process = subprocess.Popen([sys.executable, "-c", _FLOOD, str(port), str(clients)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


_REFUSING = """
import socket, struct
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
"""


@contextmanager
def refusing() -> Iterator[int]:
    """The port of somebody else who refuses every client: what a flood costs the machine, whomever it is meant for."""
    process = subprocess.Popen([sys.executable, "-c", _REFUSING], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


#: Clients that shake hands as fast as they can.
FLOOD_CLIENTS = int(os.environ.get("ELEMTA_TEST_FLOOD_CLIENTS", "8"))
#: Rounds in which others' work may spoil the comparison; a server that a flood really slows fails in every one.
FLOOD_ROUNDS = 5


def under_a_flood(server: ServerProcess, elsewhere: int) -> dict[str, float]:
    """What an exchange in clear takes: with no flood, with one that meets somebody else, with one that meets us."""
    quiet = plain_p95(server.port, 1.0)
    with flood(elsewhere, FLOOD_CLIENTS):
        beside = plain_p95(server.port, 1.0)
    with flood(implicit_port(server), FLOOD_CLIENTS):
        wait_until(lambda: bool(events(server, "tls.refused")), "the burst is over")
        flooded = plain_p95(server.port, 1.0)
    figures = {"quiet": quiet, "beside": beside, "flooded": flooded}
    print({name: f"{seconds * 1000:.2f} ms" for name, seconds in figures.items()})  # noqa: T201  # -s shows it
    return figures


def test_a_flood_of_handshakes_leaves_others_alone(tmp_path: Path, certificates: Certificates) -> None:
    """It is refused by its rate, and the rest of it waits in the kernel: promise 17's factor of two holds."""
    rsa = certificates.write("rsa", NAME, key_type=trustme.KeyType.RSA)
    with secure(tmp_path, certificates, **rsa) as server, refusing() as elsewhere:
        plain_p95(server.port, 0.5)
        rounds = []
        for _ in range(FLOOD_ROUNDS):
            rounds.append(under_a_flood(server, elsewhere))
            if rounds[-1]["flooded"] <= 2 * max(rounds[-1]["quiet"], rounds[-1]["beside"]):
                break
        else:
            pytest.fail(f"slower by more than twice in each round: {rounds}")


def test_stalled_handshakes_leave_others_alone(tmp_path: Path, certificates: Certificates) -> None:
    with secure(tmp_path, certificates) as server:
        quiet = plain_p95(server.port, 1.0)
        stalled = []
        with suppress(ConnectionResetError):
            for _ in range(90):
                raw = socket.create_connection(("127.0.0.1", implicit_port(server)), timeout=30)
                stalled.append(raw)
                raw.sendall(b"\x16\x03\x01")
        beside_stalled = plain_p95(server.port, 1.0)
        for raw in stalled:
            raw.close()
    assert beside_stalled <= 2 * quiet + 0.010, (quiet, beside_stalled)


# ---- Mozilla's profile ---------------------------------------------------------------------------


def overlapping(lines: list[dict[str, Any]]) -> list[str]:
    """Clients of which two lines tell of the same moment; a port that is free again may be another connection's."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        end = datetime.datetime.fromisoformat(line["timestamp"]).timestamp()
        spans.setdefault(line["client"], []).append((end - line["seconds"], end))
    return [
        client
        for client, several in spans.items()
        if any(begin < end - 0.002 for (_, end), (begin, _) in pairwise(sorted(several)))  # they are rounded
    ]


@pytest.mark.slow
@pytest.mark.timeout(INSTALL_SECONDS + SCAN_SECONDS)
@pytest.mark.parametrize("key_type", [trustme.KeyType.ECDSA, trustme.KeyType.RSA])
@pytest.mark.parametrize("door", [Door.STARTTLS, Door.IMPLICIT])
def test_sslyze_finds_mozillas_intermediate_profile(
    tmp_path: Path,
    certificates: Certificates,
    request: pytest.FixtureRequest,
    key_type: trustme.KeyType,
    door: Door,
) -> None:
    program = find_sslyze(request.config.cache.mkdir("sslyze") if request.config.cache else tmp_path / "sslyze")
    pair = certificates.write("judged", NAME, key_type=key_type)
    with secure(tmp_path, certificates, **pair, handshakes_per_address=10_000) as server:
        port = implicit_port(server) if door is Door.IMPLICIT else server.port
        starttls = () if door is Door.IMPLICIT else ("--starttls", "smtp")
        found, result = findings(program, tmp_path, *starttls, "--sni", NAME, f"127.0.0.1:{port}")
    # Python cannot list curves, and nobody has heard of the test's authority.
    assert set(found) - {"tls_curves", "certificate_path_validation"} == set(), found
    (scan,) = result["server_scan_results"]
    assert scan["scan_status"] == "COMPLETED"
    lines = events(server, "session.ended")
    assert lines
    assert not overlapping(lines), "one line a connection"
    assert not events(server, "session.failed")
