"""Elemta before a real Postfix with TLS, and one that relays only for those who log in (Dovecot's SASL)."""

import smtplib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from elemta.testing.process import ServerProcess
from tests.peers.dovecot import PASSWORD, Dovecot
from tests.peers.postfix import Postfix
from tests.peers.wire import attempts, free_port, queued, wait_until

SENDER, RECIPIENT = "sender@example.org", "recipient@example.net"
USER = "relay@example.com"
NAME = "smtp.example.net"
CONTENT = b"Subject: hello\r\n\r\nworld\r\n"
Needs = Callable[[str], Path]

pytestmark = [pytest.mark.needs("postfix"), pytest.mark.usefixtures("as_root"), pytest.mark.slow]

_TLS = """
smtpd_tls_security_level = {level}
smtpd_tls_cert_file = {folder}/cert.pem
smtpd_tls_key_file = {folder}/key.pem
smtpd_tls_received_header = yes
smtpd_tls_loglevel = 1
"""

_SASL = """
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {socket}
smtpd_sasl_security_options = noanonymous
smtpd_sasl_authenticated_header = yes
smtpd_relay_restrictions = permit_sasl_authenticated, reject
"""


def with_tls(folder: Path, level: str, *, name: str = NAME) -> str:
    """Postfix's configuration with a certificate for `name`; its authority goes to `ca.pem`."""
    authority = trustme.CA()
    certificate = authority.issue_cert(name)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(folder / "cert.pem"), append=True)
    return _TLS.format(level=level, folder=folder)


def relay(*routes: dict[str, object], **keys: object) -> dict[str, object]:
    """Mail goes by these routes, all to this machine; retries come at once."""
    written = [{"domain": "*", "transport": "smtp", "host": "127.0.0.1", **route} for route in routes]
    return {
        "hostname": "relay.example.com",
        "allowed_relays": ["127.0.0.1"],
        "retry_schedule": [0.5],
        "routes": written,
        **keys,
    }


def send(port: int, *recipients: str) -> None:
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client", timeout=30) as client:
        assert client.sendmail(SENDER, list(recipients), CONTENT) == {}


def told(server: ServerProcess, event: str, domain: str = "") -> list[dict[str, Any]]:
    """The log's events of one name; about recipients of one domain if asked."""
    return [each for each in server.events if each["event"] == event and each.get("recipient", "").endswith(domain)]


def outcome_of(server: ServerProcess, domain: str) -> dict[str, Any]:
    """The first outcome of a recipient, waited for."""
    wait_until(lambda: bool(told(server, "delivery.outcome", domain)), f"an outcome for {domain}")
    return told(server, "delivery.outcome", domain)[0]


# ---- policies ------------------------------------------------------------------------------------

IN_CLEAR, OVER_TLS, WAITS, FAILS = "in clear", "over TLS", "deferred", "failed"
POLICIES = ("none", "may", "require", "verify")


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("none", (IN_CLEAR, IN_CLEAR, WAITS, WAITS)),
        ("may", (IN_CLEAR, OVER_TLS, OVER_TLS, OVER_TLS)),
        ("encrypt", (FAILS, OVER_TLS, OVER_TLS, OVER_TLS)),  # 530 5.7.0 Must issue a STARTTLS command first
    ],
)
def test_each_policy_before_postfix(
    tmp_path: Path, open_folder: Path, needs: Needs, level: str, expected: tuple[str, ...]
) -> None:
    domains = [f"{policy}.example.net" for policy in POLICIES]
    port = free_port()
    routes: list[dict[str, object]] = [
        {"domain": domain, "port": port, "tls": policy} for domain, policy in zip(domains, POLICIES, strict=True)
    ]
    extra = with_tls(open_folder, level) + f"virtual_mailbox_domains = {' '.join(domains)} misnamed.example.net\n"
    routes[3] |= {"tls_name": NAME, "tls_ca_file": str(open_folder / "ca.pem")}
    routes.append({**routes[3], "domain": "misnamed.example.net", "tls_name": "other.example.net"})
    with (
        Postfix(needs("postfix"), open_folder, port=port, extra=extra) as postfix,
        ServerProcess(tmp_path, relay(*routes)) as server,
    ):
        for policy, domain, went in zip(POLICIES, domains, expected, strict=True):
            send(server.port, f"to@{domain}")
            outcome = outcome_of(server, domain)
            assert outcome["result"] == ("delivered" if went in (IN_CLEAR, OVER_TLS) else went)
            tls = outcome.get("tls", "")
            assert tls.startswith("TLSv1.3 ") == (went == OVER_TLS)
            assert tls.endswith(" verified") == (went == OVER_TLS and policy == "verify")
        send(server.port, "to@misnamed.example.net")
        misnamed = outcome_of(server, "misnamed.example.net")
        assert misnamed["result"] == "deferred"
        assert level == "none" or "other.example.net" in misnamed["reply"]
        arrived = postfix.wait_for(sum(went in (IN_CLEAR, OVER_TLS) for went in expected))
        assert sum(b"using TLSv1.3" in mail for mail in arrived) == sum(went == OVER_TLS for went in expected)


def test_tls_from_the_first_octet(tmp_path: Path, open_folder: Path, needs: Needs) -> None:
    extra = with_tls(open_folder, "encrypt") + "smtpd_tls_wrappermode = yes\n"
    keys = {"tls": "verify", "implicit_tls": True, "tls_name": NAME, "tls_ca_file": str(open_folder / "ca.pem")}
    with (
        Postfix(needs("postfix"), open_folder, port=free_port(), extra=extra) as postfix,
        ServerProcess(tmp_path, relay({"port": postfix.port, **keys})) as server,
    ):
        send(server.port, RECIPIENT)
        (mail,) = postfix.wait_for(1)
        assert b"using TLSv1.3" in mail
        wait_until(lambda: queued(server) == 0, "the queue is empty")


# ---- logins --------------------------------------------------------------------------------------

MECHANISMS = ("plain", "login", "scram-sha-256")


@pytest.mark.needs("dovecot")
def test_a_smarthost_that_requires_a_login(tmp_path: Path, open_folder: Path, needs: Needs) -> None:
    """One port for each mechanism, and a route for each; one more route with a wrong password, whose mail waits."""
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    (tmp_path / "password").chmod(0o600)
    for name in ("postfix", "dovecot"):
        (open_folder / name).mkdir(mode=0o755)
    ports = {mechanism: free_port() for mechanism in MECHANISMS}
    services = "".join(
        f"{port} inet n - n - - smtpd\n  -o smtpd_sasl_mechanism_filter={mechanism}\n"
        for mechanism, port in ports.items()
    )
    login = {"tls_name": NAME, "tls_ca_file": str(open_folder / "ca.pem"), "username": USER}
    routes: list[dict[str, object]] = [
        {"domain": f"{mechanism}.example.net", "port": port, **login, "password_file": str(tmp_path / "password")}
        for mechanism, port in ports.items()
    ]
    routes.append({"domain": "wrong.example.net", "port": ports["plain"], **login, "password": "hunter2"})
    domains = " ".join(str(route["domain"]) for route in routes)
    extra = with_tls(open_folder, "encrypt") + f"virtual_mailbox_domains = {domains}\n"
    with Dovecot(needs("dovecot"), open_folder / "dovecot", port=free_port(), users=(USER,)) as dovecot:
        wait_until(dovecot.sasl.exists, "Dovecot's SASL listens")
        extra += _SASL.format(socket=dovecot.sasl)
        postfix = Postfix(needs("postfix"), open_folder / "postfix", port=free_port(), extra=extra, services=services)
        with postfix, ServerProcess(tmp_path, relay(*routes, retry_schedule=[600])) as server:
            send(server.port, *(f"to@{mechanism}.example.net" for mechanism in MECHANISMS))
            arrived = postfix.wait_for(len(MECHANISMS))
            assert all(f"Authenticated sender: {USER}".encode() in mail for mail in arrived)
            for mechanism in MECHANISMS:
                assert f"sasl_method={mechanism.upper()}, sasl_username={USER}" in postfix.log
            assert told(server, "delivery.login_refused") == []
            send(server.port, "to@wrong.example.net")
            assert outcome_of(server, "wrong.example.net")["result"] == "deferred"
            (refusal,) = told(server, "delivery.login_refused")
            assert refusal["reply"].startswith("535 5.7.8")
            assert refusal["username"] == USER
            assert attempts(server) == ["delivered"] * len(MECHANISMS) + ["deferred"]
            assert queued(server) == 1
            assert "hunter2" not in server.log
