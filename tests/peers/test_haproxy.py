"""A real HAProxy in front of a real server: whom the server takes its clients for, its checks, who is closed."""

import re
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elemta.testing.process import ServerProcess
from tests.net.proxy_headers import addresses, binary, line
from tests.peers.haproxy import HAProxy
from tests.peers.wire import PATIENCE_SECONDS, wait_until

CLIENT, OTHER, STRANGER = "127.0.0.2", "127.0.0.3", "127.0.0.4"
SENDER, RECIPIENT = "sender@example.org", "recipient@example.net"
MAIL = "Subject: hello\r\n\r\nhello\r\n"
#: What the `server` lines say to the server.
WAYS = {
    "one": "send-proxy",
    "two": "send-proxy-v2",
    "sum": "send-proxy-v2 proxy-v2-options crc32c,ssl,authority",
    "checked_one": "send-proxy check-send-proxy",
    "checked_two": "send-proxy-v2 check-send-proxy",
    "none": "",
}


def behind(folder: Path, certificate: Path | None = None, **more: Any) -> ServerProcess:
    """A server whose first listener is behind HAProxy alone, whose second one is for everybody."""
    config: dict[str, Any] = {
        "hostname": "mx.example.com",
        "allowed_relays": [CLIENT],
        "routes": [{"domain": "*", "transport": "discard"}],
        "listeners": [{"address": "127.0.0.1:0", "proxy_protocol": ["127.0.0.1"], **more}, {"address": "127.0.0.1:0"}],
    }
    if certificate is not None:
        config["tls"] = {"enabled": True, "cert_file": str(certificate), "key_file": str(certificate)}
    return ServerProcess(folder, config)


def logged(server: ServerProcess, event: str, **facts: object) -> list[dict[str, Any]]:
    return [found for found in server.events if found["event"] == event and facts.items() <= found.items()]


def client_of(found: dict[str, Any]) -> str:
    return str(found["client"]).rpartition(":")[0]


def come(proxy: HAProxy, way: str, source: str) -> smtplib.SMTP:
    """A client that comes to a way of HAProxy's from this address."""
    return smtplib.SMTP(
        "127.0.0.1", proxy.ports[way], "client.example", timeout=PATIENCE_SECONDS, source_address=(source, 0)
    )


def in_front(program: Path, folder: Path, way: str, *, to: int) -> HAProxy:
    """One way alone: the checks of others would be in the server's log."""
    return HAProxy(program, folder, {way: WAYS[way]}, to=to)


@pytest.fixture
def haproxy(needs: Callable[[str], Path]) -> Path:
    return needs("haproxy")


@pytest.mark.parametrize("way", ["one", "two", "sum"])
def test_the_server_sees_the_client(haproxy: Path, tmp_path: Path, open_folder: Path, way: str) -> None:
    with behind(tmp_path) as server, in_front(haproxy, open_folder, way, to=server.port) as proxy:
        with come(proxy, way, CLIENT) as client:
            assert client.sock is not None
            port = client.sock.getsockname()[1]
            assert client.sendmail(SENDER, RECIPIENT, MAIL) == {}
        with come(proxy, way, OTHER) as client, pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail(SENDER, RECIPIENT, MAIL)  # who may relay is about the client
        wait_until(lambda: len(logged(server, "session.ended")) == 2, "both sessions are logged")
        assert [found["client"] for found in logged(server, "mail.accepted")] == [f"{CLIENT}:{port}"]
        assert {client_of(found) for found in logged(server, "session.ended")} == {CLIENT, OTHER}
        assert logged(server, "proxy.refused") == []


@pytest.mark.parametrize("way", ["one", "two", "sum"])
@pytest.mark.parametrize(("source", "destination"), [("2001:db8::7", "2001:db8::25"), ("198.51.100.7", "192.0.2.25")])
def test_a_client_from_far_away(
    haproxy: Path, tmp_path: Path, open_folder: Path, way: str, source: str, destination: str
) -> None:
    rules = [
        f"tcp-request connection set-src str({source})",
        "tcp-request connection set-src-port int(40000)",
        f"tcp-request connection set-dst str({destination})",
        "tcp-request connection set-dst-port int(25)",
    ]
    with (
        behind(tmp_path) as server,
        HAProxy(haproxy, open_folder, {way: WAYS[way]}, to=server.port, rules=rules) as proxy,
    ):
        with come(proxy, way, CLIENT) as client, pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail(SENDER, RECIPIENT, MAIL)
        wait_until(lambda: bool(logged(server, "session.ended")), "the session is logged")
        (found,) = logged(server, "session.ended")
        assert client_of(found).strip("[]") == source


@pytest.mark.parametrize("way", ["checked_one", "checked_two"])
def test_haproxys_checks_find_the_server(haproxy: Path, tmp_path: Path, open_folder: Path, way: str) -> None:
    with behind(tmp_path) as server, in_front(haproxy, open_folder, way, to=server.port) as proxy:
        wait_until(lambda: proxy.health(way) == ("UP", "L7OK"), "HAProxy has asked and was answered")
        wait_until(lambda: bool(logged(server, "session.ended", helo="haproxy.example")), "its check is logged")
        assert {client_of(found) for found in logged(server, "session.ended")} == {"127.0.0.1"}
        server.stop()
        wait_until(lambda: proxy.health(way)[0] == "DOWN", "HAProxy sees that it is gone")


@pytest.mark.parametrize("header", [line(), line("127.0.0.2"), binary(addresses()), b""])
def test_who_forges_a_header_is_closed(tmp_path: Path, header: bytes) -> None:
    with behind(tmp_path) as server:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS, (STRANGER, 0)) as stranger:
            try:
                stranger.sendall(header + b"EHLO client.example\r\n")
                heard = stranger.recv(100)
            except ConnectionError:
                heard = b""
        assert heard == b""
        wait_until(lambda: bool(logged(server, "proxy.refused")), "it is logged")
        (found,) = logged(server, "proxy.refused")
        assert found["peer"].startswith(f"{STRANGER}:")
        assert found["cause"] == "this peer is no trusted proxy"
        assert logged(server, "session.ended") == []


def test_a_proxy_that_sends_no_header_is_closed_and_told_of(haproxy: Path, tmp_path: Path, open_folder: Path) -> None:
    with behind(tmp_path) as server, in_front(haproxy, open_folder, "none", to=server.port) as proxy:
        with proxy.connect("none", CLIENT) as silent:
            assert silent.recv(100) == b""
        with proxy.connect("none", CLIENT) as early:
            early.sendall(b"EHLO client.example\r\n")
            assert early.recv(100) == b""
        wait_until(lambda: len(logged(server, "proxy.refused")) == 2, "both are logged")
        causes = [found["cause"] for found in logged(server, "proxy.refused")]
        assert causes == ["no header within 5 s", "it begins with something else than a PROXY header"]
        second = server.ready["listeners"][1]["port"]
        with smtplib.SMTP("127.0.0.1", second) as client:  # a listener without proxies takes clients as ever
            assert client.noop()[0] == 250


@pytest.mark.parametrize("way", ["one", "two"])
@pytest.mark.parametrize("mode", ["starttls", "implicit"])
def test_tls_goes_through_the_proxy(
    haproxy: Path, tmp_path: Path, open_folder: Path, certificate: Path, way: str, mode: str
) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    encrypting = behind(tmp_path, certificate, tls=mode)
    with encrypting as server, in_front(haproxy, open_folder, way, to=server.port) as proxy:
        if mode == "starttls":
            with come(proxy, way, CLIENT) as client:
                client.starttls(context=context)
                assert client.sendmail(SENDER, RECIPIENT, MAIL) == {}
        else:
            with context.wrap_socket(proxy.connect(way, CLIENT)) as encrypted:
                assert encrypted.recv(100).startswith(b"220 ")
                encrypted.sendall(b"QUIT\r\n")
                assert encrypted.recv(100).startswith(b"221 ")
        wait_until(lambda: bool(logged(server, "session.ended")), "the session is logged")
        (found,) = logged(server, "session.ended")
        assert (client_of(found), found["tls"]) == (CLIENT, "TLSv1.3")


def test_the_manuals_example_is_one_for_haproxy(haproxy: Path, tmp_path: Path) -> None:
    manual = Path(__file__).parents[2] / "docs" / "proxy-protocol.md"
    (example,) = re.findall(
        r"^```text\n(listen .*?)^```$", manual.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "haproxy.cfg").write_text(example)
    judged = subprocess.run(
        [haproxy, "-c", "-f", tmp_path / "haproxy.cfg"], capture_output=True, text=True, check=False
    )
    assert (judged.returncode, judged.stderr) == (0, ""), judged.stderr
