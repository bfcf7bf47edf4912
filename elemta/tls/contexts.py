"""OpenSSL's context for a server.

What is not here: the contexts of clients (`delivery`), what is in a certificate (`tls.certificates`), which context a
client gets (`tls.server`). RFC 9325 says what is good practice, Mozilla's *intermediate* profile which ciphers.
Failure raised: `TlsUnusable`, with one sentence that names the file or the key, and what to do.
"""

import ssl
from typing import Final

from attrs import frozen

from elemta.config.tls import ClientCertificates
from elemta.tls.stream import BoundContext, tls_text

#: For TLS 1.2, Mozilla's intermediate profile, https://ssl-config.mozilla.org/guidelines/5.7.json; those of TLS 1.3 are
#: OpenSSL's own, and good. Without its DHE ones: they need parameters in a file, cost the server most, and every client
#: of this decade speaks ECDHE.
INTERMEDIATE_CIPHERS: Final = ":".join(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
    )
)

VERSIONS: Final = {"tls1.2": ssl.TLSVersion.TLSv1_2, "tls1.3": ssl.TLSVersion.TLSv1_3}

_VERIFY_MODES: Final = {
    ClientCertificates.NONE: ssl.CERT_NONE,
    ClientCertificates.REQUEST: ssl.CERT_OPTIONAL,
    ClientCertificates.REQUIRE: ssl.CERT_REQUIRED,
}


class TlsUnusable(Exception):
    """TLS cannot be served so; the text says why and how to mend it."""


@frozen
class ContextOptions:
    """What holds for every context of a server; the words of `config.tls`."""

    min_version: str = "tls1.2"
    max_version: str | None = None
    ciphers: str | None = None
    client_auth: ClientCertificates = ClientCertificates.NONE
    client_ca_file: str | None = None


def server_context(options: ContextOptions) -> BoundContext:
    """A context without a certificate. It reads `client_ca_file`. Raises `TlsUnusable`."""
    context = BoundContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[options.min_version]
    if options.max_version is not None:
        context.maximum_version = VERSIONS[options.max_version]
    # Renegotiation is what lets a client have the server work at no cost to itself (RFC 9325 §3.5); compression tells
    # lengths (§3.3).
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # All that are left are good: the client knows best which its processor is fast at, as in Mozilla's profile.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    _set_ciphers(context, options.ciphers)
    _ask_for_certificates(context, options)
    return context


def _set_ciphers(context: ssl.SSLContext, ciphers: str | None) -> None:
    try:
        context.set_ciphers(ciphers or INTERMEDIATE_CIPHERS)
    except ssl.SSLError as error:
        raise TlsUnusable(
            f'tls.ciphers: OpenSSL knows no cipher in "{ciphers}"; "openssl ciphers -v" lists those that it knows. '
            "Leave the key out for Mozilla's intermediate ones."
        ) from error


def _ask_for_certificates(context: ssl.SSLContext, options: ContextOptions) -> None:
    context.verify_mode = _VERIFY_MODES[options.client_auth]
    if options.client_auth is ClientCertificates.NONE:
        return
    if options.client_ca_file is None:
        raise TlsUnusable("tls.client_ca_file: name the file of the authorities whose certificates clients may show.")
    # So that the file may also name certificates of single clients, which no authority need have signed.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cafile=options.client_ca_file)
    except (OSError, ValueError) as error:
        raise TlsUnusable(
            f"tls.client_ca_file: {options.client_ca_file} cannot be used: {_reason(error)}. "
            "It is to hold certificates of authorities, PEM."
        ) from error


def load_pair(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    """Give a context its certificate. Raises `TlsUnusable`."""
    try:
        # Without the function OpenSSL asks at the terminal for the passphrase of an encrypted key, and waits.
        context.load_cert_chain(cert_file, key_file, password=lambda: "")
    except (OSError, ValueError) as error:
        raise TlsUnusable(f"OpenSSL cannot use {cert_file} with the key {key_file}: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):  # which is an OSError too
        return error.strerror or str(error)
    return tls_text(error)
