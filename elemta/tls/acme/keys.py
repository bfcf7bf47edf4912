"""Keys, signing requests, certificates: what goes over the wire of ACME.

What is not here: files (`tls.acme.cabinet`). This module imports `cryptography`, which is slow: import it late.
X.509 by RFC 5280, PKCS #10 by RFC 2986, the id of a certificate by RFC 9773 §4.1. Making an RSA key takes long: call it
in a thread. Failure raised: `Unsound` for a certificate that does not serve.
"""

import base64
from collections.abc import Sequence

from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from elemta.tls.acme.renewal import Validity

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_CURVES: dict[str, ec.EllipticCurve] = {"ecdsa-p256": ec.SECP256R1(), "ecdsa-p384": ec.SECP384R1()}
#: RFC 8017; the least that authorities take, CA/Browser Forum Baseline Requirements 6.1.5.
_RSA_BITS = 2048
#: What the library raises for a file, or when something within a certificate is looked at, long after it was read.
UNREADABLE = (
    ValueError,
    TypeError,
    IndexError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


class Unsound(Exception):
    """A certificate, or its key, is not what it should be; the text says why."""


@frozen
class Pair:
    """A certificate with its chain and key. `id` is that of RFC 9773 §4.1, empty when it cannot have one."""

    names: frozenset[str]
    validity: Validity
    id: str
    serial: str
    issuer: str
    #: The key, then the chain, PEM.
    pem: bytes = field(repr=False)


def make_key(kind: str) -> PrivateKey:
    """A new private key: `ecdsa-p256`, `ecdsa-p384` or `rsa-2048`."""
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind])
    return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)


def key_pem(key: PrivateKey) -> bytes:
    """A private key as PKCS #8, PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signing_request(key: PrivateKey, names: Sequence[str]) -> bytes:
    """The request for a certificate, DER. The names stand in subjectAltName alone, RFC 8555 §7.4."""
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.add_extension(alternatives, critical=False).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def read_pair(pem: bytes) -> Pair:
    """The pair of a file. Raises `Unsound`."""
    try:
        return _read_pair(pem)
    except UNREADABLE as error:
        raise Unsound("it holds no key with a certificate for names") from error


def _read_pair(pem: bytes) -> Pair:
    key = serialization.load_pem_private_key(pem, password=None)
    leaf = x509.load_pem_x509_certificates(pem)[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if leaf.public_key() != key.public_key():
        raise Unsound("its key does not fit its certificate")
    return Pair(
        pem=pem,
        names=frozenset(name.lower() for name in names.get_values_for_type(x509.DNSName)),
        validity=Validity(leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()),
        id=_id_of(leaf),
        serial=f"{leaf.serial_number:x}",
        issuer=leaf.issuer.rfc4514_string(),
    )


def issued_pair(key: PrivateKey, chain: bytes, names: Sequence[str]) -> Pair:
    """The pair of a key and what the authority gave for it. Raises `Unsound` when it is not what was ordered."""
    pair = read_pair(key_pem(key) + chain)
    missing = sorted(set(names) - pair.names)
    if missing:
        raise Unsound(f"the certificate lacks {', '.join(missing)}")
    return pair


def _id_of(leaf: x509.Certificate) -> str:
    """RFC 9773 §4.1: the authority's key id, a dot, the serial number as in DER, each base64url."""
    try:
        identifier = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return ""
    # One bit more than the number has: DER's integers are signed.
    serial = leaf.serial_number.to_bytes(leaf.serial_number.bit_length() // 8 + 1, "big")
    return "" if identifier is None else f"{_base64url(identifier)}.{_base64url(serial)}"


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")
