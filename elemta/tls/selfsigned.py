"""The certificate that a server makes for itself.

It proves nothing to a stranger: it is for dev mode, where no other one is at hand. What is not here: when one is made
(`supervisor.certificate`), or serving TLS with it. X.509 by RFC 5280; the name stands in subjectAltName alone (RFC 5280
§4.2.1.6), where clients look for it. This module imports `cryptography`, which is slow: import it late.
Failure raised: `OSError` for a folder that cannot be written.
"""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from elemta.runtime.own_files import replace_file

#: How long a new certificate is good; Apple's systems refuse one of more than 825 days, https://support.apple.com/103769.
VALID_FOR = timedelta(days=365)
#: How far it reaches back, for clients whose clock is behind.
BEGINS_EARLIER = timedelta(hours=1)

CERT_NAME = "self-signed.pem"
KEY_NAME = "self-signed.key"

_CERT_MODE = 0o644
_SUBJECT = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Elemta self-signed")])


@frozen
class SelfSigned:
    """A certificate in PEM with its key. `until` is UTC; `made` is False when it lay there before."""

    cert_file: Path
    key_file: Path
    until: datetime
    made: bool


def self_signed(folder: Path, hostname: str, *, now: float) -> SelfSigned:
    """The certificate for `hostname` (A-labels) in `folder`; a new one unless a sound one is there.

    `now` is UTC in seconds since 1970. Raises `OSError`.
    """
    cert_file, key_file = folder / CERT_NAME, folder / KEY_NAME
    moment = datetime.fromtimestamp(now, UTC)
    until = _good_until(cert_file, key_file, hostname=hostname, now=moment)
    if until is not None:
        return SelfSigned(cert_file, key_file, until, made=False)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(key, hostname, moment)
    # A crash between the two leaves a pair that does not fit, which the next start makes again.
    replace_file(key_file, _pem(key))
    replace_file(cert_file, certificate.public_bytes(serialization.Encoding.PEM), mode=_CERT_MODE)
    return SelfSigned(cert_file, key_file, certificate.not_valid_after_utc, made=True)


def _good_until(cert_file: Path, key_file: Path, *, hostname: str, now: datetime) -> datetime | None:
    """When the pair that is there ends; None for a pair that does not serve: missing, broken, old, of another name.

    A key that others could read does not serve either.
    """
    try:
        if stat.S_IMODE(key_file.stat().st_mode) & 0o077:
            return None
        certificate = x509.load_pem_x509_certificate(cert_file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        fits = certificate.public_key() == key.public_key()
    except (FileNotFoundError, ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound):
        return None
    begin, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    named = names.get_values_for_type(x509.DNSName) == [hostname]
    return until if fits and named and begin <= now < until else None


def _certificate(key: ec.EllipticCurvePrivateKey, hostname: str, now: datetime) -> x509.Certificate:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(_SUBJECT)
        .issuer_name(_SUBJECT)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BEGINS_EARLIER)
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(hostname)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
