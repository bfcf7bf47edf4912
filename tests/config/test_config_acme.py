"""What the keys of ACME mean together."""

from typing import Any

import pytest

from elemta.config.acme_checks import check_acme
from elemta.config.document import Document
from elemta.config.problems import Report
from elemta.config.sections import Config
from elemta.config.tls import DnsUpdateSection, LetsEncryptSection, TlsSection

HMAC = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
PRIVATE = {"directory_url": "https://ca.internal/dir"}
DNS = DnsUpdateSection(server="ns.example.com", key_name="acme", key_secret="c2VjcmV0")


def found(hostname: str = "mail.example.com", *, enabled: bool = True, **keys: Any) -> tuple[list[str], list[str]]:
    """The keys with a problem, and those with a warning."""
    section = LetsEncryptSection(enabled=True, **keys)
    config = Config(hostname=hostname, tls=TlsSection(enabled=enabled, lets_encrypt=section))
    report = Report(Document())
    check_acme(config, report, lambda name: name == "ca.pem")
    return (
        [problem.key.removeprefix("tls.lets_encrypt.") for problem in report.problems],
        [notice.key.removeprefix("tls.lets_encrypt.") for notice in report.notices],
    )


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"domain": "mail.example.org", "domains": ("mx.example.org",)},
        {"directory_url": "https://ca.internal/dir", "ca_file": "ca.pem"},
        {"domain": "mail", **PRIVATE},
        {"domain": "mail.internal", **PRIVATE},
        {"eab_key_id": "kid-1", "eab_hmac_key": HMAC},
        {"eab_key_id": "kid-1", "eab_hmac_key": "a-_9"},
        {"challenge": "dns-01", "dns": DNS, "domains": ("*.example.com",)},
    ],
)
def test_what_is_sound_is_not_spoken_of(keys: dict[str, Any]) -> None:
    assert found(**keys) == ([], [])


@pytest.mark.parametrize(
    ("keys", "problems"),
    [
        ({"hostname": "mail"}, ["hostname"]),
        ({"hostname": "mail.localdomain"}, ["hostname"]),
        ({"domain": "192.0.2.1"}, ["domain"]),
        ({"domain": "192.0.2.1", **PRIVATE}, ["domain"]),
        ({"domain": "mail.example.test"}, ["domain"]),
        ({"domains": ("mx.example.org", "mx.local")}, ["domains[1]"]),
        ({"domains": ("*.example.com",)}, ["domains[0]"]),
        ({"challenge": "dns-01", "dns": DNS, "domains": ("*",)}, ["domains[0]"]),
        ({"directory_url": "http://ca.internal/dir"}, ["directory_url"]),
        ({"ca_file": "missing.pem"}, ["ca_file"]),
        ({"eab_key_id": "kid-1"}, ["eab_hmac_key"]),
        ({"eab_hmac_key": HMAC}, ["eab_key_id"]),
        ({"eab_key_id": "kid-1", "eab_hmac_key": "not base64!"}, ["eab_hmac_key"]),
        ({"challenge": "dns-01"}, ["dns.server"]),
        ({"challenge": "dns-01", "dns": DnsUpdateSection("ns", key_name="x")}, ["dns.key_secret"]),
        ({"challenge": "dns-01", "dns": DnsUpdateSection("ns", key_secret="c2Vj")}, ["dns.key_name"]),
        ({"challenge": "dns-01", "dns": DnsUpdateSection("ns", key_name="x", key_secret="?")}, ["dns.key_secret"]),
    ],
)
def test_what_no_authority_would_take_is_refused(keys: dict[str, Any], problems: list[str]) -> None:
    assert found(**keys)[0] == problems


@pytest.mark.parametrize(
    ("keys", "warned"),
    [
        ({"enabled": False}, ["enabled"]),
        ({"accept_terms": False}, ["accept_terms"]),
        ({"staging": True, **PRIVATE}, ["staging"]),
        ({"challenge": "dns-01", "dns": DnsUpdateSection("ns")}, ["dns.key_name"]),
    ],
)
def test_what_is_odd_is_noticed(keys: dict[str, Any], warned: list[str]) -> None:
    assert found(**keys) == ([], warned)


def test_a_secret_is_in_no_problem() -> None:
    section = LetsEncryptSection(enabled=True, eab_key_id="kid", eab_hmac_key="not base64!")
    report = Report(Document())
    check_acme(Config(tls=TlsSection(enabled=True, lets_encrypt=section)), report, lambda _: True)
    assert "not base64!" not in "".join(map(str, report.problems))
