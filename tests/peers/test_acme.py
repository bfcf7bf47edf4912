"""Certificates of real authorities: ordered, served, renewed while sessions run.

The long form is `tests/campaign/test_acme_renewals.py`.
"""

import json
import smtplib
import socket
import ssl
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import pytest
import trio

from elemta.datasource.options import Dialect
from elemta.net.sockets import SystemNetwork
from elemta.observe.log import make_logger
from elemta.resolver.dns import DnsResolver
from elemta.runtime.threads import WorkerThreads
from elemta.testing.process import ServerFailed, ServerProcess
from elemta.tls.acme.base import AuthorityRefused, Binding
from elemta.tls.acme.cabinet import Cabinet
from elemta.tls.acme.dns01 import Dns01, UpdateServer
from elemta.tls.acme.http01 import Http01, Responder, SharedAnswers
from elemta.tls.acme.issue import Issuer, Terms
from elemta.tls.acme.keys import Pair
from elemta.tls.acme.library import PIECE_SECONDS, LibraryAuthority
from elemta.tls.acme.order import ChallengeFailed, Solver
from tests.datasource.servers import empty_database
from tests.peers.authorities import Bind, Caddy, MockDns, Namespace, Pebble
from tests.peers.test_workers import dsn_of
from tests.peers.wire import free_port, wait_until

NAME = "mail.example.com"
Needs = Callable[[str], Path]

#: The key of the zone, as `tsig-keygen` makes one.
KEY_NAME, KEY_SECRET = "acme-key", "kJhJ0b1fJ2h9bYpLQ0lZ9o1m3Yk5c3k4m0m4mM9bqkE="


def acme_config(pebble: Pebble, folder: Path, http_port: int, **keys: Any) -> dict[str, Any]:
    """A server that has its certificate from pebble."""
    section = {
        "enabled": True,
        "directory_url": pebble.directory_url,
        "ca_file": str(pebble.ca_file),
        "http_addr": f"127.0.0.1:{http_port}",
        "cache_dir": str(folder / "certs"),
        **keys,
    }
    return {
        "hostname": NAME,
        "tls": {
            "enabled": True,
            "listen_addr": f"127.0.0.1:{free_port()}",
            "handshakes_per_address": 1000,  # what is served is looked at without a pause
            "lets_encrypt": section,
        },
        "web": {"enabled": True, "listen_addr": "127.0.0.1:0"},
    }


def tls_port(server: ServerProcess) -> int:
    return int(server.ready["listeners"][1]["port"])


def serial_of(port: int, root: str) -> str:
    """The serial number of the certificate that a full check of chain, name, and time let through."""
    context = ssl.create_default_context(cadata=root)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname=NAME) as encrypted:
            certificate = encrypted.getpeercert()
            assert certificate is not None
            return str(certificate["serialNumber"])


def events(server: ServerProcess, *names: str) -> list[dict[str, Any]]:
    return [event for event in server.events if event["event"] in names]


@pytest.mark.slow
@pytest.mark.needs("pebble", "pebble-challtestsrv")
def test_certificates_renew_while_sessions_run(tmp_path: Path, needs: Needs) -> None:
    """Half-minute certificates, every third nonce refused; then another life of the authority, which knows nobody."""
    http_port = free_port()
    dns_server = MockDns(needs("pebble-challtestsrv"), tmp_path)
    with dns_server:
        pebble = Pebble(
            needs("pebble"), tmp_path, http_port=http_port, dns_port=dns_server.port, seconds=30, refused_nonces=33
        )
        with pebble, ServerProcess(tmp_path, acme_config(pebble, tmp_path, http_port)) as server:
            wait_until(lambda: bool(events(server, "acme.ordered")), "a certificate is ordered")
            first_root = pebble.root
            context = ssl.create_default_context(cadata=first_root)
            # The name is checked by the handshakes below: this client knows the server by its address.
            context.check_hostname = False
            with (
                smtplib.SMTP("127.0.0.1", server.port, timeout=30) as upgraded,
                smtplib.SMTP_SSL("127.0.0.1", tls_port(server), context=context, timeout=30) as implicit,
            ):
                upgraded.starttls(context=context)
                serials = {serial_of(tls_port(server), first_root)}

                def renewed() -> bool:
                    serials.add(serial_of(tls_port(server), first_root))
                    return len(events(server, "acme.renewed")) >= 1 and len(serials) >= 2

                wait_until(renewed, "a certificate is renewed")
                assert (upgraded.noop()[0], implicit.noop()[0]) == (250, 250)
                pebble.stop()
                pebble.start()
                wait_until(lambda: len(events(server, "acme.renewed")) >= 2, "renewed by the new authority", 60)
                assert serial_of(tls_port(server), pebble.root) not in serials
                assert (upgraded.noop()[0], implicit.noop()[0]) == (250, 250)
            web = server.ready["web"]
            with urllib.request.urlopen(f"http://127.0.0.1:{web['port']}/metrics", timeout=10) as answer:
                metrics = answer.read().decode()
            assert server.stop() == 0
    assert "elemta_letsencrypt_renewal_status 1.0" in metrics
    assert 'elemta_letsencrypt_renewal_attempts_total{result="ok"} 3.0' in metrics
    assert events(server, "tls.reload_failed", "acme.defect", "acme.not_taken") == []
    certs = tmp_path / "certs"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in certs.iterdir()}
    assert stat.S_IMODE(certs.stat().st_mode) == 0o700
    assert modes.pop("challenges") == 0o700
    assert f"{NAME}.pem" in modes
    assert set(modes.values()) == {0o600}
    assert list((certs / "challenges").iterdir()) == []
    assert "PRIVATE KEY" not in server.log


@pytest.mark.slow
@pytest.mark.needs("pebble", "pebble-challtestsrv")
def test_a_command_renews_beside_a_server_that_runs(tmp_path: Path, needs: Needs) -> None:
    http_port = free_port()
    dns_server = MockDns(needs("pebble-challtestsrv"), tmp_path)
    with dns_server:
        pebble = Pebble(needs("pebble"), tmp_path, http_port=http_port, dns_port=dns_server.port)
        with pebble, ServerProcess(tmp_path, acme_config(pebble, tmp_path, http_port)) as server:
            wait_until(lambda: bool(events(server, "acme.ordered")), "a certificate is ordered")
            before = serial_of(tls_port(server), pebble.root)
            young = elemta(tmp_path, "renew")
            assert (young.returncode, "--force" in young.stderr) == (0, True)
            rehearsed = elemta(tmp_path, "renew", "--dry-run", "-o", "json")
            assert rehearsed.returncode == 0, rehearsed.stderr
            assert serial_of(tls_port(server), pebble.root) == before
            ordered = elemta(tmp_path, "renew", "--force", "-o", "json")
            assert ordered.returncode == 0, ordered.stderr
            serial = json.loads(ordered.stdout)["serial"]
            wait_until(lambda: int(serial_of(tls_port(server), pebble.root), 16) == int(serial, 16), "it is served")
            pebble.stop()
            away = elemta(tmp_path, "renew", "--force")
            assert (away.returncode, "is not reached: Connection refused" in away.stderr) == (75, True)


def elemta(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "elemta", "cert", *arguments, "-c", str(folder / "elemta.conf")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


# ---- without a server ----------------------------------------------------------------------------


def issuer(pebble: Pebble, folder: Path, solver: Callable[[Cabinet], Solver], terms: Terms) -> Issuer:
    cabinet = Cabinet(str(folder / "certs"))
    cabinet.open()
    threads = WorkerThreads()
    return Issuer(
        terms,
        cabinet,
        solver(cabinet),
        make_authority=lambda key: LibraryAuthority(
            terms.directory_url, key, threads=threads, ca_file=str(pebble.ca_file)
        ),
        threads=threads,
    )


async def issue_by_http(pebble: Pebble, folder: Path, port: int, terms: Terms) -> Pair:
    made = issuer(pebble, folder, lambda cabinet: Http01(cabinet, WorkerThreads()), terms)
    responder = Responder(SharedAnswers(made.cabinet, WorkerThreads()))
    await responder.listen(SystemNetwork(), f"127.0.0.1:{port}")
    failure: AuthorityRefused | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(responder.run)
        try:
            pair = await made.issue(None)
        except AuthorityRefused as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return pair


@pytest.mark.needs("pebble", "pebble-challtestsrv")
async def test_an_external_binding_makes_the_account(tmp_path: Path, needs: Needs) -> None:
    secret = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
    port = free_port()
    with MockDns(needs("pebble-challtestsrv"), tmp_path) as mock:
        bindings = {"kid-1": secret}
        with Pebble(needs("pebble"), tmp_path, http_port=port, dns_port=mock.port, bindings=bindings) as pebble:
            plain = Terms(pebble.directory_url, (NAME,), key_type="ecdsa-p384")
            with pytest.raises(AuthorityRefused, match="eab_key_id"):
                await issue_by_http(pebble, tmp_path, port, plain)
            wrong = Terms(pebble.directory_url, (NAME,), binding=Binding("kid-2", secret))
            with pytest.raises(AuthorityRefused) as caught:
                await issue_by_http(pebble, tmp_path, port, wrong)
            assert secret not in str(caught.value)
            right = Terms(pebble.directory_url, (NAME,), binding=Binding("kid-1", secret), key_type="ecdsa-p384")
            assert (await issue_by_http(pebble, tmp_path, port, right)).names == {NAME}


@pytest.mark.needs("pebble", "pebble-challtestsrv")
async def test_nobody_at_the_port_is_told_in_the_authoritys_words(tmp_path: Path, needs: Needs) -> None:
    with MockDns(needs("pebble-challtestsrv"), tmp_path) as mock:
        with Pebble(needs("pebble"), tmp_path, http_port=free_port(), dns_port=mock.port) as pebble:
            with pytest.raises(AuthorityRefused) as caught:
                await issue_by_http(pebble, tmp_path, free_port(), Terms(pebble.directory_url, (NAME,)))
    assert caught.value.problem in ("connection", "unauthorized")


@pytest.mark.needs("pebble", "named")
async def test_dns_updates_show_a_whole_domain(tmp_path: Path, needs: Needs) -> None:
    """BIND takes the records, by a signed update alone; pebble reads them there; they are gone afterwards."""
    with Bind(needs("named"), tmp_path, key_name=KEY_NAME, key_secret=KEY_SECRET) as bind:
        with Pebble(needs("pebble"), tmp_path, http_port=1, dns_port=bind.port) as pebble:
            terms = Terms(pebble.directory_url, ("example.test", "*.example.test", "mail.example.test"))

            def solver(secret: str) -> Callable[[Cabinet], Solver]:
                server = UpdateServer("127.0.0.1", bind.port, key_name=KEY_NAME, key_secret=secret, propagation=5.0)
                log = make_logger("error", "json")
                return lambda _: Dns01(server, DnsResolver(WorkerThreads()), log=log)

            with pytest.raises(ChallengeFailed) as caught:
                await issuer(pebble, tmp_path, solver("AAAA" + KEY_SECRET[4:]), terms).issue(None)
            assert KEY_SECRET[4:] not in str(caught.value)
            pair = await issuer(pebble, tmp_path, solver(KEY_SECRET), terms).issue(None)
            assert pair.names == set(terms.names)
        question = dns.message.make_query("_acme-challenge.example.test", "TXT")
        assert dns.query.udp(question, "127.0.0.1", port=bind.port, timeout=5).answer == []


@pytest.mark.slow
@pytest.mark.needs("caddy", "nsenter", "openssl", "unshare")
def test_a_certificate_of_caddy_is_served(tmp_path: Path, needs: Needs, as_root: None) -> None:
    """In a network of its own, with port 80 and a name that only its hosts file knows."""
    name = "mail.home.arpa"
    with Namespace(tmp_path, hosts=(name,)) as space, Caddy(needs("caddy"), tmp_path, inside=space.inside) as caddy:
        config = {
            "hostname": name,
            "tls": {
                "enabled": True,
                "listen_addr": "127.0.0.1:465",
                "lets_encrypt": {
                    "enabled": True,
                    "directory_url": caddy.directory_url,
                    "ca_file": str(caddy.ca_file),
                    "cache_dir": str(tmp_path / "certs"),
                },
            },
        }

        class ServerInside(ServerProcess):
            """The server, in there."""

            program = ("-c", _ENTER, *space.inside)

        with ServerInside(tmp_path, config) as server:
            wait_until(lambda: bool(events(server, "acme.ordered")), f"a certificate is ordered:\n{caddy.log}")
            asked = ["openssl", "s_client", "-connect", "127.0.0.1:465", "-servername", name, "-verify_hostname", name]
            checked = ["-verify_return_error", "-CAfile", str(caddy.ca_file), "-quiet"]
            shown = subprocess.run(
                [*space.inside, *asked, *checked], input=b"QUIT\r\n", capture_output=True, timeout=30
            )
            assert shown.stdout.startswith(b"220 "), shown.stderr
            assert server.stop() == 0


#: Runs `elemta` with the arguments behind "run" after what enters the namespace.
_ENTER = (
    "import os, sys; at = sys.argv.index('run'); "
    "os.execvp(sys.argv[1], [*sys.argv[1:at], sys.executable, '-m', 'elemta', *sys.argv[at:]])"
)


@pytest.mark.slow
@pytest.mark.needs("pebble", "pebble-challtestsrv")
def test_the_first_of_several_workers_orders_for_all(tmp_path: Path, needs: Needs) -> None:
    http_port = free_port()
    dns_server = MockDns(needs("pebble-challtestsrv"), tmp_path)
    with empty_database(Dialect.POSTGRESQL) as options, dns_server:
        pebble = Pebble(needs("pebble"), tmp_path, http_port=http_port, dns_port=dns_server.port)
        storage = {"storage": {"type": "postgresql", "dsn": dsn_of(options)}, "processes": 3}
        with pebble, ServerProcess(tmp_path, {**acme_config(pebble, tmp_path, http_port), **storage}) as server:
            # Each worker reads the file when it sees it: the one that ordered at once, the others within seconds.
            wait_until(lambda: len(events(server, "tls.loaded")) == 3, "every worker serves the certificate")
            assert [event["worker"] for event in events(server, "acme.ordered")] == [1]
            assert {event["worker"] for event in events(server, "tls.loaded")} == {1, 2, 3}
            assert len({serial_of(tls_port(server), pebble.root) for _ in range(20)}) == 1
            assert server.stop() == 0


@pytest.mark.needs("pebble", "pebble-challtestsrv")
def test_an_authority_that_hangs_keeps_no_server_from_its_end(tmp_path: Path, needs: Needs) -> None:
    http_port = free_port()
    with MockDns(needs("pebble-challtestsrv"), tmp_path) as mock:
        pebble = Pebble(needs("pebble"), tmp_path, http_port=http_port, dns_port=mock.port)
        with pebble, ServerProcess(tmp_path, acme_config(pebble, tmp_path, http_port)) as server:
            pebble.freeze()
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < PIECE_SECONDS + 5


def test_a_port_that_is_taken_is_told_at_the_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        section = {
            "enabled": True,
            "http_addr": f"127.0.0.1:{taken.getsockname()[1]}",
            "directory_url": "https://localhost:1/dir",
        }
        tls = {"enabled": True, "listen_addr": "127.0.0.1:0", "lets_encrypt": section}
        with pytest.raises(ServerFailed, match=r"is in use by another program.*tls\.lets_encrypt\.http_addr"):
            ServerProcess(tmp_path, {"hostname": NAME, "tls": tls}).start()
