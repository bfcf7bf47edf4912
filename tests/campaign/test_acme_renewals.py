"""Promise 22: certificates renew while serving, whatever the authority does. Ten minutes."""

import os
import smtplib
import socket
import ssl
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from elemta.testing.process import ServerProcess
from tests.peers.authorities import MockDns, Pebble
from tests.peers.test_acme import NAME, acme_config, events, tls_port
from tests.peers.test_hostile import discarding
from tests.peers.wire import free_port, wait_until

#: How long it goes on; the authority hangs from the third tenth to the end of the sixth.
SECONDS = float(os.environ.get("ELEMTA_TEST_ACME_SECONDS", "600"))
#: How long a certificate is good, and the part of requests whose nonce is refused, in percent.
LIFETIME_SECONDS = 60
REFUSED_NONCES = 33
#: Between two handshakes; between two mails of a session that stays.
HANDSHAKE_SECONDS = 0.5
MAIL_SECONDS = 5.0
SESSIONS = 4
#: OpenSSL's X509_V_FLAG_NO_CHECK_TIME: while the authority is away, what it gave last grows old.
NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
#: From the authority's return until the new certificate is served: the longest distance between attempts, an order.
RETURN_SECONDS = 30.0


@define
class Clients:
    """Those who stay, and those who come and go."""

    port: int
    tls_port: int
    root: str
    #: From when to when certificates may be old.
    away: tuple[float, float]
    over: threading.Event = field(factory=threading.Event)
    failures: list[str] = field(factory=list)
    handshakes: int = 0
    mails: int = 0
    serials: set[str] = field(factory=set)

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.root)
        begin, end = self.away
        if begin <= time.monotonic() <= end:
            context.verify_flags |= NO_CHECK_TIME
        return context

    def come_and_go(self) -> None:
        """Shake hands again and again, with a full check of chain, name, and time."""
        while not self.over.wait(HANDSHAKE_SECONDS):
            try:
                with socket.create_connection(("127.0.0.1", self.tls_port), timeout=10) as plain:
                    with self.context().wrap_socket(plain, server_hostname=NAME) as encrypted:
                        certificate = encrypted.getpeercert() or {}
                        self.serials.add(str(certificate["serialNumber"]))
                        assert encrypted.recv(4) == b"220 "
                self.handshakes += 1
            except (OSError, AssertionError) as error:
                self.failures.append(f"{time.monotonic():.1f}: handshake: {error!r}")

    def stay(self, implicit: bool) -> None:
        """Keep one session for the whole time, with a mail now and then."""
        context = self.context()
        context.check_hostname = False
        try:
            with self._session(context, implicit) as session:
                while not self.over.wait(MAIL_SECONDS):
                    session.sendmail("a@example.org", ["b@example.org"], b"Subject: still here\r\n\r\nYes.\r\n")
                    self.mails += 1
        except (OSError, smtplib.SMTPException) as error:
            self.failures.append(f"{time.monotonic():.1f}: session: {error!r}")

    def _session(self, context: ssl.SSLContext, implicit: bool) -> smtplib.SMTP:
        if implicit:
            return smtplib.SMTP_SSL("127.0.0.1", self.tls_port, timeout=30, context=context)
        session = smtplib.SMTP("127.0.0.1", self.port, timeout=30)
        session.starttls(context=context)
        return session


def config_of(pebble: Pebble, folder: Path, http_port: int) -> dict[str, Any]:
    return {**discarding(), **acme_config(pebble, folder, http_port)}


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.needs("pebble", "pebble-challtestsrv")
def test_certificates_renew_for_ten_minutes(tmp_path: Path, needs: Callable[[str], Path]) -> None:
    http_port = free_port()
    with MockDns(needs("pebble-challtestsrv"), tmp_path) as dns:
        pebble = Pebble(
            needs("pebble"),
            tmp_path,
            http_port=http_port,
            dns_port=dns.port,
            seconds=LIFETIME_SECONDS,
            refused_nonces=REFUSED_NONCES,
        )
        with pebble, ServerProcess(tmp_path, config_of(pebble, tmp_path, http_port)) as server:
            wait_until(lambda: bool(events(server, "acme.ordered")), "a certificate is ordered")
            began = time.monotonic()
            leaves, returns = began + 0.3 * SECONDS, began + 0.6 * SECONDS
            clients = Clients(server.port, tls_port(server), pebble.root, (leaves, returns + RETURN_SECONDS))
            threads = [threading.Thread(target=clients.come_and_go)]
            threads += [threading.Thread(target=clients.stay, args=(bool(number % 2),)) for number in range(SESSIONS)]
            for thread in threads:
                thread.start()
            idle = threading.Event()
            idle.wait(leaves - time.monotonic())
            before = len(events(server, "acme.renewed"))
            pebble.freeze()
            idle.wait(returns - time.monotonic())
            meanwhile = len(events(server, "acme.renewed")) - before
            pebble.thaw()
            idle.wait(began + SECONDS - time.monotonic())
            clients.over.set()
            for thread in threads:
                thread.join()
            renewed, failed = len(events(server, "acme.renewed")), len(events(server, "acme.failed"))
            status = server.stop()
    sys.stderr.write(
        f"{renewed} renewals, {failed} failed attempts, {meanwhile} renewals while the authority hung; "
        f"{clients.handshakes} handshakes, {clients.mails} mails in {SESSIONS} sessions, failures: {clients.failures}"
    )
    assert clients.failures == []
    assert renewed >= 8 * SECONDS / 600
    assert meanwhile <= 1  # one may have been under way
    assert len(clients.serials) >= renewed
    assert events(server, "tls.reload_failed", "acme.defect", "acme.not_taken") == []
    assert status == 0
    key = tmp_path / "certs" / f"{NAME}.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
