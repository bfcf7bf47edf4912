"""A database that is away, or hangs, while the server starts."""

import json
import smtplib
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from elemta.testing.process import ServerProcess


@pytest.fixture
def nobody() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def config(kind: str, port: int, **more: Any) -> dict[str, Any]:
    dsn = f"{kind}://elemta:hunter2@127.0.0.1:{port}/elemta?connect_timeout=1"
    routes = [{"domain": "*", "transport": "discard"}]
    storage = {"type": kind, "dsn": dsn}
    return {"hostname": "mx.example.com", "allowed_relays": ["127.0.0.1"], "routes": routes, "storage": storage} | more


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_server_without_its_database_takes_no_mail_and_says_why(tmp_path: Path, nobody: int, kind: str) -> None:
    with ServerProcess(tmp_path, config(kind, nobody, web={"listen_addr": "127.0.0.1:0"})) as server:
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            with pytest.raises(smtplib.SMTPDataError) as caught:
                client.sendmail("a@example.org", ["b@example.org"], b"Subject: hi\r\n\r\nhi\r\n")
            assert caught.value.smtp_code == 451
        web = server.ready["web"]
        with pytest.raises(urllib.error.HTTPError) as answered:
            urllib.request.urlopen(f"http://127.0.0.1:{web['port']}/readyz")
        with answered.value as answer:
            assert answer.code == 503
            assert f"127.0.0.1:{nobody}" in json.load(answer)["checks"]["store"]["reason"]
        assert server.stop() == 0
        assert [event["event"] for event in server.events].count("queue.store_away") == 1
        assert "hunter2" not in server.log


def test_a_server_that_is_stopped_while_its_database_hangs_ends_in_order(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        full = config("postgresql", silent.getsockname()[1], queue_dir=str(tmp_path / "queue"), web={"enabled": False})
        (tmp_path / "elemta.conf").write_text(json.dumps(full | {"listen_addr": "127.0.0.1:0"}))
        with subprocess.Popen(
            [sys.executable, "-m", "elemta", "run"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        ) as server:
            try:
                connection, _ = silent.accept()
                with connection:
                    server.terminate()
                    _, log = server.communicate(timeout=30)
            finally:
                server.kill()
    assert server.returncode == 0, log
    assert "Traceback" not in log
    assert "server.ready" not in log
