"""Local mail: into a real Dovecot over LMTP, into Maildirs, and who is told that nobody lives here."""

import smtplib
from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path

import pytest

from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.peers.dovecot import Dovecot
from tests.peers.wire import free_port, mail_of, queued, wait_until

DOMAIN = "example.com"
JO, MAX, GONE = f"jo@{DOMAIN}", f"max@{DOMAIN}", f"gone@{DOMAIN}"
SENDER = "sender@example.org"
Needs = Callable[[str], Path]


def local_to(route: dict[str, object], sink: RecordingSink, *listed: str) -> dict[str, object]:
    """Local mail by one route, reports to the sink. Nobody may relay."""
    away = {"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": sink.port}
    return {
        "hostname": "mail.example.com",
        "local_domains": [DOMAIN],
        "local_recipients": list(listed),
        "retry_schedule": [0.5],
        "routes": [{"domain": DOMAIN, **route}, away],
    }


def client(server: ServerProcess) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", server.port, local_hostname="client", timeout=30)


def with_lf(content: bytes) -> bytes:
    """A mail as mailboxes keep it."""
    return content.replace(b"\r\n", b"\n")


@pytest.mark.needs("dovecot")
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("over", ["unix", "tcp"])
def test_dovecot_takes_local_mail(
    tmp_path: Path, open_folder: Path, sink: RecordingSink, needs: Needs, over: str
) -> None:
    with Dovecot(needs("dovecot"), open_folder, port=free_port(), users=(JO, MAX)) as dovecot:
        hop: dict[str, object] = {"host": "127.0.0.1", "port": dovecot.port}
        if over == "unix":
            hop = {"path": str(dovecot.socket)}
        config = local_to({"transport": "lmtp", **hop}, sink, JO, MAX, GONE)
        with ServerProcess(tmp_path, config) as server:
            for octets in (0, 4096, 1_000_000):
                content = mail_of(octets, seed=octets)
                with client(server) as smtp:
                    assert smtp.sendmail(SENDER, [JO, MAX, GONE], content) == {}
            for user in (JO, MAX):
                arrived = dovecot.wait_for(user, 3)
                for octets in (0, 4096, 1_000_000):
                    (same,) = [mail for mail in arrived if mail.endswith(b"\n" + with_lf(mail_of(octets, seed=octets)))]
                    assert b"by mail.example.com (Elemta)" in same
                    assert same.startswith(b"Return-Path: <sender@example.org>\n")
            reports = sink.wait_for(3)
            wait_until(lambda: queued(server) == 0, "the queue is empty")
            assert len(dovecot.delivered(JO)) == len(dovecot.delivered(MAX)) == len(reports) == 3
            for report in reports:
                said = message_from_bytes(report.content).as_string()
                assert f"rfc822;{GONE}" in said.replace(" ", "")
                assert JO not in said.partition("Content-Type: text/rfc822-headers")[0]


@pytest.mark.needs("dovecot")
@pytest.mark.usefixtures("as_root")
def test_mail_waits_for_a_dovecot_that_is_away(
    tmp_path: Path, open_folder: Path, sink: RecordingSink, needs: Needs
) -> None:
    dovecot = Dovecot(needs("dovecot"), open_folder, port=free_port(), users=(JO,))
    config = local_to({"transport": "lmtp", "path": str(dovecot.socket)}, sink, JO)
    with ServerProcess(tmp_path, config) as server:
        with client(server) as smtp:
            smtp.sendmail(SENDER, [JO], mail_of(100, seed=1))
        wait_until(lambda: '"deferred"' in server.log, "the first attempt failed")
        with dovecot:
            assert dovecot.wait_for(JO)[0].endswith(with_lf(mail_of(100, seed=1)))
            wait_until(lambda: queued(server) == 0, "the queue is empty")
        assert sink.mails == []


def test_maildirs_take_local_mail(tmp_path: Path, sink: RecordingSink) -> None:
    (tmp_path / "mail" / DOMAIN / "max").mkdir(parents=True)
    for name in ("tmp", "new", "cur"):
        (tmp_path / "mail" / DOMAIN / "max" / name).mkdir()
    config = local_to({"transport": "maildir", "path": f"{tmp_path}/mail/{{domain}}/{{local}}"}, sink, JO)
    content = mail_of(300_000, seed=2)
    with ServerProcess(tmp_path, config) as server:
        with client(server) as smtp:
            refused = smtp.sendmail(SENDER, [JO, MAX, GONE], content)
        assert list(refused) == [GONE]
        assert refused[GONE][0] == 550
        assert refused[GONE][1].startswith(b"5.1.1")
        wait_until(lambda: queued(server) == 0, "the queue is empty")
        for user in ("jo", "max"):
            folder = tmp_path / "mail" / DOMAIN / user
            (kept,) = [path.read_bytes() for path in folder.glob("new/*")]
            assert kept.startswith(b"Return-Path: <sender@example.org>\n")
            assert f"Delivered-To: {user}@{DOMAIN}\n".encode() in kept
            assert kept.endswith(b"\n" + with_lf(content))
            assert list(folder.glob("tmp/*")) == []


def test_who_exists_and_who_does_not(tmp_path: Path, sink: RecordingSink) -> None:
    config = local_to({"transport": "maildir", "path": f"{tmp_path}/mail/{{domain}}/{{local}}"}, sink, JO)
    (tmp_path / "mail" / DOMAIN / "max" / "new").mkdir(parents=True)  # an empty folder would pass for one not mounted
    with ServerProcess(tmp_path, config) as server, client(server) as smtp:
        smtp.ehlo()
        smtp.mail("")
        assert smtp.rcpt(JO)[0] == 250
        assert smtp.rcpt(f"<JO@{DOMAIN.upper()}>")[0] == 250
        code, text = smtp.rcpt(GONE)
        assert (code, text[:5]) == (550, b"5.1.1")
        code, text = smtp.rcpt("jo@example.net")
        assert (code, text[:5]) == (550, b"5.7.1")
        # RFC 5321 §4.5.1: postmaster, in any case, with the domain or without.
        for postmaster in ("postmaster", f"Postmaster@{DOMAIN}", f"POSTMASTER@{DOMAIN}"):
            assert smtp.docmd("RCPT", f"TO:<{postmaster}>")[0] == 250
        assert smtp.data(b"Subject: to the postmaster\r\n\r\n.\r\n")[0] == 250
        wait_until(lambda: queued(server) == 0, "the queue is empty")
        assert len(list(tmp_path.glob("mail/*/postmaster/new/*"))) == 3, "a copy for each recipient as it was named"
