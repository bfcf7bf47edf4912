"""What the keys of ACME mean together.

What is not here: the check of one value (`config.kinds`), certificates that are files (`config.checks`). Nothing is
asked of DNS or of an authority: `elemta cert why` does that.
"""

import base64
import binascii
import ipaddress
from collections.abc import Callable

from elemta.config.document import Path
from elemta.config.problems import Report
from elemta.config.sections import Config
from elemta.config.tls import DnsUpdateSection, LetsEncryptSection

#: Top-level domains that no public authority issues for: RFC 6761 §6, RFC 6762 §3, RFC 8375, and ICANN's private one.
_PRIVATE = frozenset({"arpa", "example", "internal", "invalid", "lan", "local", "localdomain", "localhost", "test"})
_SECTION: Path = ("tls", "lets_encrypt")


def check_acme(config: Config, report: Report, exists: Callable[[str], bool]) -> None:
    """Report what would keep every order from succeeding; `exists` says whether there is a file of a name."""
    section = config.tls.lets_encrypt
    if not section.enabled:
        return
    if not config.tls.enabled:
        report.warn((*_SECTION, "enabled"), "no certificate is ordered: tls.enabled is false.")
        return
    _names(config, report)
    _authority(section, report, exists)
    _binding(section, report)
    if section.challenge == "dns-01":
        _dns(section.dns, report)
    if not section.accept_terms:
        report.warn((*_SECTION, "accept_terms"), "no account is made; only one that is there already can order.")


def _names(config: Config, report: Report) -> None:
    section = config.tls.lets_encrypt
    key = "hostname" if section.domain is None else "tls.lets_encrypt.domain"
    name = section.domain or config.hostname
    why = _why_not(name, public=section.directory_url is None)
    if why:
        report.error(
            ("hostname",) if section.domain is None else (*_SECTION, "domain"),
            f'found "{name}", which {why}. Set tls.lets_encrypt.domain to the name that clients connect to, '
            f'such as "mail.example.com" (now it comes from {key}).',
        )
    for index, further in enumerate(section.domains):
        path = (*_SECTION, "domains", index)
        why = _why_not(further.removeprefix("*."), public=section.directory_url is None)
        if further == "*" or why:
            report.error(path, f'found "{further}", which {why or "is no domain"}; remove it.')
        elif further.startswith("*.") and section.challenge != "dns-01":
            report.error(path, f'"{further}" needs dns-01: http-01 cannot show a whole domain. Set challenge to it.')


def _why_not(name: str, *, public: bool) -> str:
    """Completes "which …": why no authority issues for a name; empty when one may."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        return "is an IP address"
    if not public:
        return ""
    if "." not in name:
        return "is a bare local name, and public authorities issue for full ones alone"
    if name.rpartition(".")[2] in _PRIVATE:
        return "is private, and public authorities issue for names in the public DNS alone"
    return ""


def _authority(section: LetsEncryptSection, report: Report, exists: Callable[[str], bool]) -> None:
    url = section.directory_url
    if url is not None and not url.startswith("https://"):
        report.error((*_SECTION, "directory_url"), "expected an address that begins with https://, RFC 8555 §6.1.")
    if url is not None and section.staging:
        report.warn((*_SECTION, "staging"), "not used: directory_url names the authority.")
    if section.ca_file is not None and not exists(section.ca_file):
        report.error((*_SECTION, "ca_file"), f'found "{section.ca_file}", expected the name of a file that exists.')


def _binding(section: LetsEncryptSection, report: Report) -> None:
    missing = [key for key in ("eab_key_id", "eab_hmac_key") if getattr(section, key) is None]
    if len(missing) == 1:
        report.error(
            (*_SECTION, missing[0]),
            "external account binding needs both eab_key_id and eab_hmac_key, as the authority gave them to you.",
        )
    elif section.eab_hmac_key is not None and not _is_base64(section.eab_hmac_key.replace("-", "+").replace("_", "/")):
        report.error((*_SECTION, "eab_hmac_key"), "expected base64url, as the authority gave it to you.")


def _dns(section: DnsUpdateSection, report: Report) -> None:
    path = (*_SECTION, "dns")
    if section.server is None:
        report.error((*path, "server"), "dns-01 needs the name server that takes updates of the zone; set it.")
    if (section.key_name is None) != (section.key_secret is None):
        missing = "key_name" if section.key_name is None else "key_secret"
        report.error((*path, missing), "updates are signed by key_name and key_secret together; set both, or neither.")
    elif section.key_secret is None:
        report.warn((*path, "key_name"), "updates are not signed: the name server must know this host by its address.")
    elif not _is_base64(section.key_secret):
        report.error((*path, "key_secret"), "expected base64, as in the name server's own file of keys.")


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    return bool(text)
