"""The process: what keeps it from starting is one sentence, what stops it stops it in order."""

import json
import os
import signal
import smtplib
import socket
import ssl
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

from elemta.supervisor.lock import QueueBusy, QueueLock, QueueUnusable
from elemta.testing.process import ServerProcess

HOSTNAME = {"hostname": "mx.example.com"}
EXAMPLE = Path(__file__).parents[2] / "conf" / "original-example.json"


def run(folder: Path, config: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    """Run a server that is not to start."""
    (folder / "elemta.conf").write_text(
        json.dumps({"queue_dir": str(folder / "queue"), "web": {"enabled": False}, **HOSTNAME, **config})
    )
    return subprocess.run(
        [sys.executable, "-m", "elemta", "run"], cwd=folder, capture_output=True, text=True, timeout=30, check=False
    )


def last_line(ended: "subprocess.CompletedProcess[str]") -> str:
    return ended.stderr.strip().splitlines()[-1]


def test_a_busy_port_is_named_with_the_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        ended = run(tmp_path, {"listen_addr": address})
    assert ended.returncode == 1
    assert last_line(ended).startswith(f"elemta: {address} is in use by another program")
    assert "Traceback" not in ended.stderr


def test_a_busy_web_port_is_named_and_nothing_is_served(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        ended = run(tmp_path, {"listen_addr": "127.0.0.1:0", "web": {"listen_addr": address}})
    assert ended.returncode == 1
    assert last_line(ended).startswith(f"elemta: {address} is in use")
    assert "web.listen_addr" in last_line(ended)


def test_a_queue_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "queue").write_text("a file")
    ended = run(tmp_path, {"listen_addr": "127.0.0.1:0"})
    assert ended.returncode == 77
    assert f"the queue folder {tmp_path / 'queue'} cannot be used" in last_line(ended)


def test_a_second_server_on_one_queue_names_the_first(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, HOSTNAME) as server:
        ended = run(tmp_path, {"listen_addr": "127.0.0.1:0"})
        assert ended.returncode == 75
        assert f"is in use by process {server.pid}" in last_line(ended)
        assert server.stop() == 0


def test_a_configuration_with_a_slip_ends_with_78(tmp_path: Path) -> None:
    began = time.monotonic()
    ended = run(tmp_path, {"max_sise": 5})
    assert ended.returncode == 78
    assert "max_sise" in ended.stderr
    assert "max_size" in ended.stderr
    assert time.monotonic() - began < 10


def test_ready_and_the_control_socket(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, {**HOSTNAME, "web": {"listen_addr": "127.0.0.1:0"}}) as server:
        assert server.ready["pid"] == server.pid
        with smtplib.SMTP("127.0.0.1", server.port, local_hostname="client") as client:
            assert client.noop()[0] == 250
        control = Path(server.ready["control"])
        assert stat.S_IMODE(control.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "queue").stat().st_mode) == 0o700
        with socket.create_connection(("127.0.0.1", server.ready["web"]["port"])) as web:
            web.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert web.recv(1000).startswith(b"HTTP/1.1 200")
        assert server.stop() == 0
        assert not control.exists()


@pytest.mark.parametrize("options", [("--smtp", "127.0.0.1:0"), ("--dev", "--port", "0")])
def test_the_command_line_replaces_every_configured_listener(tmp_path: Path, options: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        listeners = [{"address": f"127.0.0.1:{taken}", "name": "in"}, {"address": f"127.0.0.1:{taken + 1}"}]
        server = ServerProcess(tmp_path, {**HOSTNAME, "listen_addr": f"127.0.0.1:{taken}", "listeners": listeners})
        try:
            server.start(*options)
            (listener,) = server.ready["listeners"]
            assert (listener["name"], listener["host"]) == ("127.0.0.1:0", "127.0.0.1")
            assert server.stop() == 0
        finally:
            server.kill()
    assert "listeners names all listeners" not in server.log


ANYWHERE = {"enabled": True, "listen_addr": "127.0.0.1:0"}


def certificate_events(server: ServerProcess) -> list[dict[str, Any]]:
    return [event for event in server.events if event["event"] == "tls.self_signed"]


def test_the_originals_example_runs_with_a_self_signed_certificate(tmp_path: Path) -> None:
    example = json.loads(EXAMPLE.read_text())
    places = {"listen_addr": "127.0.0.1:0", "queue_dir": "./queue"}
    tls = {**example["tls"], "listen_addr": "127.0.0.1:0"}
    with ServerProcess(tmp_path, {**example, **places, "tls": tls}) as server:
        trusting = ssl.create_default_context(cafile=str(tmp_path / "queue" / "tls" / "self-signed.pem"))
        clear, encrypted = (listener["port"] for listener in server.ready["listeners"])
        trusting.check_hostname = False  # the example's hostname is not where it listens
        with smtplib.SMTP("127.0.0.1", clear, local_hostname="client") as client:
            client.starttls(context=trusting)
            assert client.noop()[0] == 250
        with smtplib.SMTP_SSL("127.0.0.1", encrypted, local_hostname="client", context=trusting) as client:
            assert client.noop()[0] == 250
        assert server.stop() == 0
        server.start()
        assert server.stop() == 0
    first, second = certificate_events(server)
    assert first["level"] == "warning"
    assert first["missing"] == {"tls.cert_file": "/path/to/cert.pem", "tls.key_file": "/path/to/key.pem"}
    assert (first["made"], second["made"]) == (True, False)
    assert {first["cert_file"], second["cert_file"]} == {str(tmp_path / "queue" / "tls" / "self-signed.pem")}
    assert stat.S_IMODE(Path(first["key_file"]).stat().st_mode) == 0o600
    assert "BEGIN CERTIFICATE" in Path(first["cert_file"]).read_text()


@pytest.mark.parametrize(
    "config",
    [
        {"dev_mode": True},
        {"dev_mode": True, "tls": {**ANYWHERE, "cert_file": "c.pem", "key_file": "k.pem"}},
    ],
    ids=["no TLS", "files that are there"],
)
def test_no_certificate_is_made_where_none_is_missing(tmp_path: Path, config: dict[str, Any]) -> None:
    issued = trustme.CA().issue_cert("mail.example.com")
    issued.private_key_pem.write_to_path(str(tmp_path / "k.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "c.pem"))
    with ServerProcess(tmp_path, {**HOSTNAME, **config}) as server:
        assert server.stop() == 0
    assert certificate_events(server) == []
    assert not (tmp_path / "queue" / "tls").exists()


def test_a_missing_certificate_is_78_outside_dev_mode(tmp_path: Path) -> None:
    ended = run(tmp_path, {"tls": {"enabled": True, "cert_file": "/path/to/cert.pem", "key_file": "/path/to/key.pem"}})
    assert ended.returncode == 78
    assert 'tls.cert_file: found "/path/to/cert.pem", expected the name of a file that exists.' in ended.stderr
    assert not (tmp_path / "queue").exists()


def test_a_certificate_that_cannot_be_served_is_78(tmp_path: Path) -> None:
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).touch(mode=0o600)
    ended = run(
        tmp_path, {"listen_addr": "127.0.0.1:0", "tls": {**ANYWHERE, "cert_file": "c.pem", "key_file": "k.pem"}}
    )
    assert ended.returncode == 78
    assert last_line(ended) == (
        "elemta: TLS cannot be served: c.pem holds no certificate in PEM (-----BEGIN CERTIFICATE-----)."
    )


def test_a_certificate_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "queue").mkdir()
    (tmp_path / "queue" / "tls").write_text("a file")
    ended = run(tmp_path, {"listen_addr": "127.0.0.1:0", "dev_mode": True, "tls": ANYWHERE})
    assert ended.returncode == 1
    assert last_line(ended).startswith("elemta: no certificate can be made")
    assert str(tmp_path / "queue" / "tls") in last_line(ended)


def test_a_signal_shows_the_tasks(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, HOSTNAME) as server:
        os.kill(server.pid, signal.SIGUSR2)
        assert server.stop() == 0
        (event,) = [event for event in server.events if event["event"] == "server.tasks"]
        assert any("_accept" in row for row in event["tree"])


def test_the_lock_is_one_owners(tmp_path: Path) -> None:
    with QueueLock(tmp_path / "queue"):
        assert stat.S_IMODE((tmp_path / "queue").stat().st_mode) == 0o700
        with pytest.raises(QueueBusy, match=str(os.getpid())), QueueLock(tmp_path / "queue"):
            pass
    with QueueLock(tmp_path / "queue"):
        pass


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "queue").mkdir()
    (tmp_path / "queue" / "elemta.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(QueueUnusable), QueueLock(tmp_path / "queue"):
        pass
    assert (tmp_path / "elsewhere").read_text() == "precious"
