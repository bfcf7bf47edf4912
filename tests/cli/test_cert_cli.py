"""The certificate commands: what is in the files, what a client sees at a server that runs."""

import datetime
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from elemta.testing.process import ServerProcess
from tests.cli.at_desk import Terminal

AUTHORITY = trustme.CA()
NOW = datetime.datetime.now(datetime.UTC)


def issue(folder: Path, name: str, *names: str, days: float = 90.5) -> dict[str, str]:
    """Write a certificate and its key; the section that names them."""
    issued = AUTHORITY.issue_cert(*names, not_after=NOW + datetime.timedelta(days=days))
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    cert_file.write_bytes(b"".join(one.bytes() for one in issued.cert_chain_pems))
    key_file.write_bytes(issued.private_key_pem.bytes())
    key_file.chmod(0o600)
    return {"cert_file": str(cert_file), "key_file": str(key_file)}


# ---- show ----------------------------------------------------------------------------------------


def test_what_is_in_a_certificate(terminal: Terminal, tmp_path: Path) -> None:
    first, second = issue(tmp_path, "one", "mx.example.com", "*.example.com"), issue(tmp_path, "two", "two.example")
    listeners = [{"address": ":25", "tls": "starttls"}, {"address": ":465", "name": "smtps", "tls": "implicit"}]
    terminal.configure(
        tls={"enabled": True, **first, "certificates": [second]}, listeners=[*listeners, {"address": ":26"}]
    )
    ended = terminal.run("cert", "show", "-o", "json")
    assert (ended.code, ended.err) == (0, "")
    one, two = ended.json
    assert one["names"] == ["mx.example.com", "*.example.com"]
    assert (one["state"], one["key"], one["key_fits"]) == ("ok", "ECDSA secp256r1", True)
    assert one["days_left"] == pytest.approx(90.5, abs=0.1)
    assert one["listeners"] == [":25", "smtps"]
    assert (one["default"], two["default"]) == (True, False)
    assert (one["cert_file"], one["key_file"]) == (first["cert_file"], first["key_file"])
    assert [link["issuer"] for link in one["chain"]] == [one["chain"][0]["issuer"]]
    assert len(one["fingerprint"]) == 64
    assert "PRIVATE" not in ended.out


def test_the_list_for_people(terminal: Terminal, tmp_path: Path) -> None:
    terminal.configure(tls={"enabled": True, **issue(tmp_path, "one", "mx.example.com")})
    for word in ("show", "info"):  # the original's
        ended = terminal.run("cert", word)
        assert ended.code == 0
        rows = {line.split()[0]: line.split(None, 1)[1].strip() for line in ended.lines if line[:1].strip()}
        assert rows["names"] == "mx.example.com"
        assert rows["key_fits"] == "true"
        assert rows["listeners"] == ":2525"
    assert "info" not in terminal.run("cert", "--help").out


def test_a_key_that_does_not_fit(terminal: Terminal, tmp_path: Path) -> None:
    one, two = issue(tmp_path, "one", "mx.example.com"), issue(tmp_path, "two", "mx.example.com")
    terminal.configure(tls={"enabled": True, "cert_file": one["cert_file"], "key_file": two["key_file"]})
    ended = terminal.run("cert", "show", "-o", "json")
    assert ended.code == 1
    (row,) = ended.json
    assert row["state"] == "unusable"
    assert "does not belong" in row["remarks"][0]


def test_an_expired_certificate(terminal: Terminal, tmp_path: Path) -> None:
    terminal.configure(tls={"enabled": True, **issue(tmp_path, "one", "mx.example.com", days=-1)})
    ended = terminal.run("cert", "show", "-o", "json")
    assert ended.code == 1
    assert ended.json[0]["state"] == "expired"
    assert "expired on" in ended.json[0]["remarks"][0]


def test_a_certificate_that_is_being_ordered(terminal: Terminal, tmp_path: Path) -> None:
    section = {"enabled": True, "domain": "mail.elemta.org", "email": "a@elemta.org", "cache_dir": str(tmp_path)}
    terminal.configure(tls={"enabled": True, "lets_encrypt": section})
    ended = terminal.run("cert", "show", "-o", "json")
    assert ended.code == 0
    assert ended.json[0]["state"] == "being ordered"


def test_nothing_is_shown_where_tls_is_off(terminal: Terminal) -> None:
    for words in (("cert", "show"), ("cert", "test")):
        ended = terminal.run(*words)
        assert (ended.code, ended.err) == (78, "elemta: tls.enabled is false, so clients are shown no certificate.\n")


# ---- test ----------------------------------------------------------------------------------------


@contextmanager
def serving(terminal: Terminal, folder: Path, pair: dict[str, str]) -> Iterator[list[int]]:
    """A server with STARTTLS and with TLS from the first octet; its ports, which the configuration names then."""
    modes = ("starttls", "implicit")
    tls = {"enabled": True, **pair}
    (folder / "server").mkdir()
    config = {"hostname": "mx.example.com", "tls": tls}
    listeners = [{"address": "127.0.0.1:0", "tls": mode} for mode in modes]
    with ServerProcess(folder / "server", {**config, "listeners": listeners}) as server:
        ports = [listener["port"] for listener in server.ready["listeners"]]
        named = [{"address": f"127.0.0.1:{port}", "tls": mode} for port, mode in zip(ports, modes, strict=True)]
        terminal.configure(**config, listeners=named)
        yield ports


def test_what_a_client_sees(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = issue(tmp_path, "one", "mx.example.com")
    AUTHORITY.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with serving(terminal, tmp_path, pair) as ports:
        strange = terminal.run("cert", "test", "-o", "json")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        known = terminal.run("cert", "test", "-o", "json")
        wrong = terminal.run("cert", "test", f"127.0.0.1:{ports[0]}", "-o", "json")
        table = terminal.run("cert", "test", f"127.0.0.1:{ports[1]}", "--implicit", "--name", "mx.example.com")
    assert [strange.code, known.code, wrong.code, table.code] == [0, 0, 0, 0]
    assert [row["state"] for row in strange.json] == ["not verified", "not verified"]
    assert "unable to get local issuer" in strange.json[0]["says"]
    for row, port, mode in zip(known.json, ports, ("starttls", "implicit"), strict=True):
        assert (row["listener"], row["mode"]) == (f"127.0.0.1:{port}", mode)
        assert (row["state"], row["version"], row["names"]) == ("verified", "TLSv1.3", ["mx.example.com"])
    assert wrong.json[0]["state"] == "not verified"
    assert "127.0.0.1" in wrong.json[0]["says"]
    assert table.lines[0].split()[:2] == ["LISTENER", "STATE"]
    assert table.lines[1].split()[1] == "verified"


def test_a_client_sees_an_expired_certificate(terminal: Terminal, tmp_path: Path) -> None:
    with serving(terminal, tmp_path, issue(tmp_path, "one", "mx.example.com", days=-1)):
        ended = terminal.run("cert", "test", "-o", "json")
    assert ended.code == 1
    assert [row["state"] for row in ended.json] == ["expired", "expired"]


@contextmanager
def saying(*words: bytes) -> Iterator[str]:
    """A server that answers each thing it hears with the next of these words; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                for place, word in enumerate(words):
                    if place:
                        connection.recv(1000)
                    connection.sendall(word)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((b"220 mx\r\n", b"250-mx\r\n250 PIPELINING\r\n"), "it does not offer STARTTLS"),
        ((b"554 go away\r\n",), 'it greeted us with "554 go away"'),
        ((b"220 mx\r\n", b"250-mx\r\n250 STARTTLS\r\n", b"454 later\r\n"), 'it answered STARTTLS with "454 later"'),
        ((b"220 mx\r\n", b"250-mx\r\n250 STARTTLS\r\n", b"220 go\r\n"), "the handshake failed: "),
        ((b"",), "it closed the connection before TLS began"),
    ],
)
def test_a_server_without_tls(terminal: Terminal, words: Any, says: str) -> None:
    with saying(*words) as address:
        ended = terminal.run("cert", "test", address, "-o", "json")
    assert ended.code == 1
    assert ended.json[0]["state"] == "no TLS"
    assert ended.json[0]["says"].startswith(says)


def test_an_address_where_nobody_listens(terminal: Terminal) -> None:
    for address, says in (("127.0.0.1:1", "no connection"), ("nowhere", "is not host:port")):
        ended = terminal.run("cert", "test", address, "-o", "json")
        assert ended.code == 1
        assert says in ended.json[0]["says"]
