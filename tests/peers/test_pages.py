"""What pages of the manual tell people to do, done by a program: their code run, their configurations served."""

import json
import smtplib
import subprocess
import sys
from pathlib import Path

import pytest

from elemta.testing.process import ServerProcess
from tests.checks.pages import fenced

DOCS = Path(__file__).parents[2] / "docs"


def block(page: str, language: str, part: str) -> str:
    """The one block of a page that holds a text."""
    (found,) = [one for one in fenced((DOCS / page).read_text(encoding="utf-8"), language) if part in one]
    return found


@pytest.mark.slow
def test_the_code_for_people_from_aiosmtpd_runs(tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    for path, part in {
        folder / "collect.py": "class Collect",
        folder / "test_collect.py": "def test_mails_are_collected",
        tmp_path / "test_mail.py": "def test_against_a_server",
    }.items():
        path.write_text(block("from-aiosmtpd.md", "python", part), encoding="utf-8")
    ran = subprocess.run([sys.executable, "-m", "pytest", "-q", tmp_path], cwd=tmp_path, capture_output=True, text=True)
    assert "3 passed" in ran.stdout, ran.stdout + ran.stderr


def test_the_plugin_for_people_from_aiosmtpd_is_served(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "collect.py").write_text(block("from-aiosmtpd.md", "python", "class Collect"))
    config = json.loads(block("from-aiosmtpd.md", "json", '"collect"'))
    with ServerProcess(tmp_path, config) as server:
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            refused = client.sendmail("me@example.org", ["jo@example.com", "x@example.net"], "Subject: hi\n\nhello")
        assert server.stop() == 0
    assert refused == {"x@example.net": (550, b"5.7.1 not relaying to that domain")}
    assert [event["subject"] for event in server.events if event["event"] == "collect.got"] == ["hi"]


def test_the_domain_of_getting_started_is_served(tmp_path: Path) -> None:
    for name in ("new", "cur", "tmp"):
        (tmp_path / "mail" / "jo" / name).mkdir(parents=True)
    page = (DOCS / "getting-started.md").read_text(encoding="utf-8")
    config = json.loads(block("getting-started.md", "json", '"maildir"'))
    with ServerProcess(tmp_path, config) as server:
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            recipients = ["jo@example.com", "nobody@example.com", "you@example.net"]
            refused = client.sendmail("me@example.org", recipients, "Subject: hi\n\nhello")
        assert server.stop() == 0
    assert sorted(refused) == recipients[1:]
    for code, text in refused.values():
        assert f"<** {code} {text.decode()}\n" in page
    (mail,) = (tmp_path / "mail" / "jo" / "new").iterdir()
    assert mail.read_bytes().startswith(b"Return-Path: <me@example.org>\nDelivered-To: jo@example.com\n")
