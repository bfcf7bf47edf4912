"""Mails sent to running servers: by `elemta send`, by the sendmail program as others call it, by the scripts."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from elemta.testing.process import ServerProcess
from elemta.testing.sink import Caught, RecordingSink
from tests.conftest import ROOT

SCRIPTS = ROOT / "docs" / "scripts"
USER, PASSWORD = "jo@example.com", "correct horse"
SENDMAIL = [sys.executable, "-c", "from elemta.cli.sendmail_program import main; main()"]

Ended = subprocess.CompletedProcess[str]


def run(command: list[str], *, folder: Path, said: str = "", **environ: str) -> Ended:
    return subprocess.run(
        command,
        input=said,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env={**os.environ, "HOME": str(folder), **environ},
    )


def elemta(folder: Path, *words: str, said: str = "") -> Ended:
    return run([sys.executable, "-m", "elemta", *words], folder=folder, said=said)


# ---- to a server with TLS and users --------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the certificate of an authority, `ca.pem`, and one that it issued for localhost, `pair.pem`."""
    folder = tmp_path_factory.mktemp("authority")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    pair = folder / "pair.pem"
    pair.touch(mode=0o600)
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pair))
    return folder


@pytest.fixture(scope="module")
def submission(tmp_path_factory: pytest.TempPathFactory, authority: Path) -> Iterator[ServerProcess]:
    """A server that takes mail from its users alone: STARTTLS at its first listener, TLS at its second."""
    folder = tmp_path_factory.mktemp("submission")
    pair = str(authority / "pair.pem")
    config = {
        "hostname": "localhost",
        "routes": [{"domain": "*", "transport": "discard"}],
        "tls": {"enabled": True, "cert_file": pair, "key_file": pair, "listen_addr": "127.0.0.1:0"},
        "auth": {
            "enabled": True,
            "required": True,
            "datasource_path": str(folder / "users.db"),
            "mechanisms": ["PLAIN", "LOGIN", "SCRAM-SHA-256"],
            "max_failures_per_address": 1000,
        },
    }
    process = ServerProcess(folder, config)
    added = elemta(folder, "user", "add", "-c", str(folder / "elemta.conf"), USER, said=f"{PASSWORD}\n")
    assert added.returncode == 0, added.stderr
    with process:
        yield process


def send(server: ServerProcess, *words: str, listener: int = 0, password: str = PASSWORD) -> Ended:
    port = server.ready["listeners"][listener]["port"]
    address = ["--server", f"localhost:{port}", "--to", "you@example.org", "--from", USER]
    return elemta(server.folder, "send", *address, *words, said=f"{password}\n")


@pytest.mark.parametrize("mechanism", ["plain", "login", "scram-sha-256"])
@pytest.mark.parametrize("tls", ["verify", "implicit"])
def test_each_login_over_each_kind_of_tls(submission: ServerProcess, authority: Path, tls: str, mechanism: str) -> None:
    options = ["--tls", tls, "--ca-file", str(authority / "ca.pem"), "--user", USER, "--auth", mechanism]
    ended = send(submission, *options, listener=int(tls == "implicit"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    assert any(line.startswith("= TLSv1.3 with ") and line.endswith("verified for localhost") for line in lines)
    assert any(line.startswith("= it is for localhost, by ") for line in lines)
    assert ("> STARTTLS" in lines) == (tls == "verify")
    (login,) = [line for line in lines if line.startswith("> AUTH ")]
    assert login.split()[:3] == [">", "AUTH", mechanism.upper()]
    assert login.split()[3:] in ([], ["<hidden>"])
    assert "taken for you@example.org: 250 2.0.0" in ended.stdout
    assert PASSWORD not in ended.stdout


def test_a_certificate_that_nobody_vouches_for(submission: ServerProcess) -> None:
    ended = send(submission, "--tls", "verify", "--user", USER)
    assert ended.returncode == 69
    assert "the certificate is not trusted" in ended.stderr
    assert "AUTH" not in ended.stdout.partition("= no TLS")[2]
    assert send(submission, "--tls", "verify", "--insecure", "--user", USER).returncode == 0


def test_a_certificate_for_another_name(submission: ServerProcess, authority: Path) -> None:
    verify = ["--tls", "verify", "--ca-file", str(authority / "ca.pem")]
    ended = send(submission, *verify, "--tls-name", "other.example", "--user", USER)
    assert ended.returncode == 69
    assert "other.example" in ended.stderr


def test_a_wrong_password(submission: ServerProcess) -> None:
    ended = send(submission, "--user", USER, password="wrong")
    assert ended.returncode == 77
    assert "the login was refused: 535 5.7.8" in ended.stderr


def test_without_a_login(submission: ServerProcess) -> None:
    ended = send(submission)
    assert ended.returncode == 1
    assert "530 5.7.0" in ended.stdout


def test_the_script_that_logs_in(submission: ServerProcess, authority: Path) -> None:
    for listener, option in ((1, "--tls"), (0, "--starttls")):
        port = str(submission.ready["listeners"][listener]["port"])
        words = ["localhost", port, option, "--ca-file", str(authority / "ca.pem"), "--user", USER]
        script = [sys.executable, str(SCRIPTS / "test_smtp_auth.py"), *words]
        ended = run(script, folder=submission.folder, said=f"{PASSWORD}\n")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "wrong password: 535 5.7.8" in ended.stdout
        assert "right password: 235 2.7.0" in ended.stdout
        assert ended.stdout.endswith(f"sent to {USER}\n")
    # A certificate that the system does not trust.
    ended = run([*script[:4], "--starttls", "--user", USER], folder=submission.folder, said=f"{PASSWORD}\n")
    assert ended.returncode == 1
    assert ended.stderr.startswith("not sent: ")


# ---- to a server in dev mode ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("dev"), {"dev_mode": True}) as server:
        yield server


def test_the_script_that_sends(dev: ServerProcess) -> None:
    script = [sys.executable, str(SCRIPTS / "test_smtp.py"), "127.0.0.1", str(dev.port), "--to", "script@example.org"]
    ended = run(script, folder=dev.folder)
    assert ended.returncode == 0, ended.stderr
    assert "reply: b'250 2.0.0 ok, queued as " in ended.stderr
    assert ended.stdout == f"sent to script@example.org by 127.0.0.1:{dev.port}\n"
    script[-1] = "no address"
    assert run(script, folder=dev.folder).returncode == 1


def test_it_finds_the_server_of_the_configuration_and_the_mail_is_in_the_inbox(dev: ServerProcess) -> None:
    ended = elemta(
        dev.folder, "send", "--server", f"127.0.0.1:{dev.port}", "--to", "found@example.org", "--subject", "seen"
    )
    assert ended.returncode == 0
    listed = elemta(dev.folder, "inbox", "list", "-c", str(dev.folder / "elemta.conf"), "-o", "json")
    assert any(mail["subject"] == "seen" for mail in json.loads(listed.stdout)), listed.stdout


# ---- the sendmail program ------------------------------------------------------------------------


@pytest.fixture
def relay(tmp_path: Path, sink: RecordingSink) -> Iterator[ServerProcess]:
    """A server that relays for this machine; what it relays is in the sink."""
    (tmp_path / "mail" / "jo").mkdir(parents=True)
    config = {
        "hostname": "relay.example.com",
        "listeners": [{"address": "127.0.0.1:0"}, {"address": f"unix:{tmp_path}/smtp"}],
        "allowed_relays": ["127.0.0.1"],
        "local_domains": ["example.com"],
        "local_recipients": ["jo@example.com"],
        "routes": [
            {"domain": "example.com", "transport": "maildir", "path": f"{tmp_path}/mail/{{local}}"},
            {"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": sink.port},
        ],
    }
    with ServerProcess(tmp_path, config) as server:
        yield server


def sendmail(server: ServerProcess, *words: str, said: str, unix: bool = False) -> Ended:
    address = f"unix:{server.folder}/smtp" if unix else f"127.0.0.1:{server.port}"
    return run([*SENDMAIL, *words], folder=server.folder, said=said, ELEMTA_SENDMAIL_SERVER=address)


def sent_to(caught: Caught) -> list[str]:
    return [line.decode().split(":", 1)[1].split(" ")[0] for line in caught.recipients]


OF_HEADER = ["<to@example.org>", "<cc@example.org>", "<bcc@example.org>"]

#: What programs say, who gets the mail.
CALLS = {
    "php": ("-t -i -fme@example.com", OF_HEADER),
    "cron": ("-FCronDaemon -i -odi -oem -oi -t -f me@example.com", OF_HEADER),
    "git": ("-f me@example.com -i a@example.org b@example.org", ["<a@example.org>", "<b@example.org>"]),
    "mutt": ("-oem -oi -f me@example.com -- a@example.org", ["<a@example.org>"]),
}


@pytest.mark.parametrize(("program", "unix"), [("php", False), ("cron", True), ("git", False), ("mutt", True)])
def test_as_others_call_it(relay: ServerProcess, sink: RecordingSink, program: str, unix: bool) -> None:
    mail = "To: to@example.org\nCc: C <cc@example.org>\nBcc: bcc@example.org\nSubject: s\n\n.\n.dots\nend\n"
    words, recipients = CALLS[program]
    ended = sendmail(relay, *words.split(), said=mail, unix=unix)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    (caught,) = sink.wait_for(1)
    assert sent_to(caught) == recipients
    assert caught.mail.startswith(b"MAIL FROM:<me@example.com>")
    assert caught.content.endswith(b"\r\n\r\n.\r\n.dots\r\nend\r\n")
    assert b"bcc@" not in caught.content


def test_how_a_refusal_ends(relay: ServerProcess) -> None:
    ended = sendmail(relay, "nobody@example.com", said="Subject: s\n\nx\n")
    assert ended.returncode == 67
    assert ended.stderr == "sendmail: nobody@example.com: 550 5.1.1 no such mailbox here\n"
    relay.terminate()
    assert sendmail(relay, "jo@example.com", said="x\n").returncode == 75


def test_the_configuration_is_enough(tmp_path: Path, sink: RecordingSink) -> None:
    config = {
        "hostname": "relay.example.com",
        "listeners": [{"address": f"unix:{tmp_path}/smtp"}],
        "allowed_relays": ["127.0.0.1"],
        "routes": [{"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": sink.port}],
    }
    with ServerProcess(tmp_path, config):
        ended = run(
            [*SENDMAIL, "-C", str(tmp_path / "elemta.conf"), "you@example.org"],
            folder=tmp_path,
            said="Subject: s\n\nx\n",
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        (caught,) = sink.wait_for(1)
        listed = run([*SENDMAIL, "-C", str(tmp_path / "elemta.conf"), "-bp"], folder=tmp_path)
    assert b"@relay.example.com>\r\n" in caught.content
    assert listed.returncode == 0
