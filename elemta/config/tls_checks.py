"""What the keys of TLS with clients mean together.

What is not here: the check of one value (`config.kinds`), TLS with other servers (`config.route_security`), ACME
(`config.acme_checks`), what is in a certificate, which the start finds out (`tls.certificates`). Nothing is read but
the configuration; files are asked about through `Facts`. What would leave in the clear what was to be encrypted is an
error.
"""

import re
from collections.abc import Callable, Iterator

from elemta.config.document import Path
from elemta.config.facts import Facts
from elemta.config.listeners import asked_listeners, tls_address
from elemta.config.problems import Report
from elemta.config.sections import Config
from elemta.config.tls import ClientCertificates, TlsMode, TlsSection

_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{64}")


def check_tls(config: Config, report: Report, facts: Facts) -> None:
    """Check the section `tls` with the listeners."""
    tls = config.tls
    if not tls.enabled:
        for index, listener in enumerate(config.listeners):
            if listener.tls is not TlsMode.NONE:
                report.error(
                    ("listeners", index, "tls"),
                    'this listener needs TLS, but tls.enabled is false. Set it to true, or "none" here.',
                )
        return
    address = tls_address(config)
    if not config.listeners and address != tls.listen_addr and report.document.has(("tls", "listen_addr")):
        report.warn(
            ("tls", "listen_addr"),
            f'dev mode listens at {address} instead of "{tls.listen_addr}", a privileged port open to all.',
        )
    if all(listener.tls is TlsMode.NONE for listener in asked_listeners(config)):
        report.warn(
            ("tls", "enabled"),
            'no listener speaks TLS. Set "tls": "starttls" or "implicit" at those that shall.',
        )
    _certificates(config, report, facts)
    _versions(tls, report)
    _client_certificates(tls, report, facts)


def _certificates(config: Config, report: Report, facts: Facts) -> None:
    tls = config.tls
    if not (tls.lets_encrypt.enabled and tls.cert_file is None and tls.key_file is None):
        # Dev mode makes one by itself where this one is missing.
        refuse = report.warn if config.dev_mode and not tls.lets_encrypt.enabled else report.error
        instead = " Dev mode makes a self-signed one at its start." if config.dev_mode else ""
        for key in missing_tls_files(tls, facts.exists):
            name = getattr(tls, key)
            if name is not None:
                says = f'found "{name}", expected the name of a file that exists.'
            elif tls.cert_file is None and tls.key_file is None:
                says = (
                    "tls.enabled needs a certificate and its key; this one is not named. "
                    "Name them, or have them ordered by tls.lets_encrypt."
                )
            else:
                says = "a certificate and its key are needed; this one is not named."
            refuse(("tls", key), f"{says}{instead}")
    for path, name in _further_files(tls):
        if not facts.exists(name):
            report.error(path, f'found "{name}", expected the name of a file that exists.')
    for path, name in _keys(tls):
        if facts.exists(name) and facts.open_to_others(name):
            report.warn(path, f"every user of this machine can read this key. Run: chmod 0600 {name}")


def _further_files(tls: TlsSection) -> Iterator[tuple[Path, str]]:
    for index, one in enumerate(tls.certificates):
        yield ("tls", "certificates", index, "cert_file"), one.cert_file
        yield ("tls", "certificates", index, "key_file"), one.key_file


def _keys(tls: TlsSection) -> Iterator[tuple[Path, str]]:
    if tls.key_file is not None:
        yield ("tls", "key_file"), tls.key_file
    for path, name in _further_files(tls):
        if path[-1] == "key_file":
            yield path, name


def _versions(tls: TlsSection, report: Report) -> None:
    if tls.max_version is not None and tls.max_version < tls.min_version:  # as texts: "tls1.2" < "tls1.3"
        report.error(
            ("tls", "max_version"), f'found "{tls.max_version}", older than tls.min_version, "{tls.min_version}".'
        )


def _client_certificates(tls: TlsSection, report: Report, facts: Facts) -> None:
    if tls.client_auth is ClientCertificates.NONE:
        for key in ("client_ca_file", "relay_certificates"):
            if getattr(tls, key):
                report.warn(
                    ("tls", key), 'not used: clients are asked for no certificate. Set tls.client_auth to "request".'
                )
    elif tls.client_ca_file is None:
        report.error(
            ("tls", "client_auth"),
            "clients cannot be asked for certificates without tls.client_ca_file, the authorities that are believed.",
        )
    else:
        trouble = facts.authorities(tls.client_ca_file)
        if trouble:
            report.error(("tls", "client_ca_file"), f'the file "{tls.client_ca_file}" {trouble}.')
    for index, text in enumerate(tls.relay_certificates):
        if not _FINGERPRINT.fullmatch(plain_fingerprint(text)):
            report.error(
                ("tls", "relay_certificates", index),
                f'found "{text}", expected a SHA-256 fingerprint of 64 hexadecimal digits, as this prints it: '
                "openssl x509 -in FILE -noout -fingerprint -sha256",
            )


def plain_fingerprint(text: str) -> str:
    """A fingerprint without the colons that people's tools put into it, in lower case."""
    return text.replace(":", "").lower()


def missing_tls_files(tls: TlsSection, exists: Callable[[str], bool]) -> tuple[str, ...]:
    """The keys among `cert_file` and `key_file` that name no file; `exists` says whether there is one of a name."""
    named = {"cert_file": tls.cert_file, "key_file": tls.key_file}
    return tuple(key for key, name in named.items() if name is None or not exists(name))
