"""Reads a certificate with its key, then judges it.

What is not here: serving it (`tls.server`), making one (`tls.selfsigned`, `tls.acme`). X.509 by RFC 5280, names in
subjectAltName alone by RFC 9525 §6.3, channel binding by RFC 5929 §4. This module imports `cryptography`, which is
slow: import it late. Its calls block on the disk.
Failure raised: `TlsUnusable`, with one sentence that names the file and how to mend it.
"""

import os
import stat
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.x509.oid import AuthorityInformationAccessOID

from elemta.tls.contexts import TlsUnusable

#: Octets of a file that are read at most; a chain of certificates has some thousands.
MOST_FILE_OCTETS: Final = 1024 * 1024
#: Days before its end that a certificate is called old; Let's Encrypt's tools renew at 30.
OLD_DAYS: Final = 14.0

_DAY_SECONDS: Final = 86_400.0
#: Who may read a key: its owner, and its group where the operator made one for it, as Debian's ssl-cert.
_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP
#: What the library raises when something within a certificate is looked at, long after it was read without complaint.
UNREADABLE: Final = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
#: RFC 5929 §4.1: these two give way to SHA-256.
_WEAK_HASHES: Final = (hashes.MD5, hashes.SHA1)


@frozen
class Link:
    """One certificate of a chain, with names as RFC 4514 writes them; times are UTC in seconds since 1970."""

    subject: str
    issuer: str
    begins: float
    until: float


@frozen
class Certificate:
    """A certificate that can be served.

    `names` are DNS names in lower case, the first one being what people call it by. `chain` begins with the certificate
    itself. `key` names the kind of its key, `fingerprint` is SHA-256 in hexadecimal. `warnings` are sentences about
    what is odd but works.
    """

    cert_file: str
    key_file: str
    names: tuple[str, ...]
    chain: tuple[Link, ...]
    key: str
    serial: str
    fingerprint: str
    #: The octets of `tls-server-end-point`, RFC 5929 §4.1; empty where the signature has no hash to take.
    binding: bytes
    warnings: tuple[str, ...] = ()

    @property
    def begins(self) -> float:
        """When it begins to be valid."""
        return self.chain[0].begins

    @property
    def until(self) -> float:
        """When it ends."""
        return self.chain[0].until


def read_certificate(cert_file: str, key_file: str, *, now: float) -> Certificate:
    """Read a pair; `now` is UTC in seconds since 1970. Raises `TlsUnusable`."""
    try:
        return _read_pair(cert_file, key_file, now=now)
    except UNREADABLE as error:
        raise TlsUnusable(
            f"{cert_file} holds a certificate that cannot be read, or one of an unknown kind: {_first_line(error)}."
        ) from error


def _read_pair(cert_file: str, key_file: str, *, now: float) -> Certificate:
    chain = _read_chain(cert_file)
    leaf = chain[0]
    key = _read_key(key_file)
    if _public_octets(leaf.public_key()) != _public_octets(key.public_key()):
        raise TlsUnusable(
            f"the key in {key_file} does not belong to the first certificate in {cert_file}. "
            "Put the server's own certificate first, its authorities' behind it, or name the key that fits."
        )
    links = tuple(_link(one) for one in chain)
    names = dns_names(leaf)
    warnings = (
        *_key_warnings(key_file),
        *_age_warnings(cert_file, links, now=now),
        *_chain_warnings(cert_file, chain),
        *([] if names else [f"{cert_file} holds no DNS name: clients that check names refuse it."]),
    )
    return Certificate(
        cert_file=cert_file,
        key_file=key_file,
        names=names,
        chain=links,
        key=_key_kind(leaf.public_key()),
        serial=f"{leaf.serial_number:x}",
        fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
        binding=end_point_binding(leaf),
        warnings=tuple(warnings),
    )


def dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names of a certificate, in lower case, in their order."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(dict.fromkeys(name.lower() for name in names.get_values_for_type(x509.DNSName)))


def end_point_binding(certificate: x509.Certificate) -> bytes:
    """The `tls-server-end-point` of a certificate, RFC 5929 §4.1; empty where that is not defined, as for Ed25519."""
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return b""
    if algorithm is None:
        return b""
    return certificate.fingerprint(hashes.SHA256() if isinstance(algorithm, _WEAK_HASHES) else algorithm)


# ---- files ---------------------------------------------------------------------------------------


def _read(name: str, what: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            return file.read(MOST_FILE_OCTETS)
    except FileNotFoundError:
        raise TlsUnusable(f"there is no file {name}, which is to hold {what}.") from None
    except PermissionError:
        raise TlsUnusable(
            f"{name}, which is to hold {what}, may not be read by this user (uid {os.geteuid()}). "
            "Give the file to the server's user, or to a group of that user with mode 0640."
        ) from None
    except OSError as error:
        raise TlsUnusable(f"{name}, which is to hold {what}, cannot be read: {error.strerror}.") from error


def _read_chain(name: str) -> list[x509.Certificate]:
    octets = _read(name, "the certificate")
    if b"-----BEGIN CERTIFICATE-----" not in octets:
        raise TlsUnusable(f"{name} holds no certificate in PEM (-----BEGIN CERTIFICATE-----).")
    try:
        return x509.load_pem_x509_certificates(octets)
    except ValueError as error:
        raise TlsUnusable(f"{name} holds a broken certificate: {_first_line(error)}") from error


def _read_key(name: str) -> PrivateKeyTypes:
    octets = _read(name, "the private key")
    try:
        return serialization.load_pem_private_key(octets, password=None)
    except TypeError:
        raise TlsUnusable(
            f"the key in {name} is encrypted, and a server has nobody to ask for the passphrase. "
            f"Write it without one: openssl pkey -in {name} -out NEW, mode 0600."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        # Not the library's words: they may quote the key.
        raise TlsUnusable(f"{name} holds no private key in PEM (-----BEGIN PRIVATE KEY-----).") from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _public_octets(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _link(certificate: x509.Certificate) -> Link:
    return Link(
        subject=_name(certificate.subject) or ", ".join(dns_names(certificate)),
        issuer=_name(certificate.issuer),
        begins=certificate.not_valid_before_utc.timestamp(),
        until=certificate.not_valid_after_utc.timestamp(),
    )


def _name(name: x509.Name) -> str:
    return name.rfc4514_string()


def _key_kind(key: PublicKeyTypes) -> str:
    match key:
        case rsa.RSAPublicKey():
            return f"RSA {key.key_size}"
        case ec.EllipticCurvePublicKey():
            return f"ECDSA {key.curve.name}"
    return type(key).__name__.removesuffix("PublicKey")


# ---- judgement -----------------------------------------------------------------------------------


def _key_warnings(name: str) -> list[str]:
    mode = stat.S_IMODE(os.stat(name).st_mode)
    if not mode & _OTHERS:
        return []
    return [f"the key {name} has mode {mode:04o}: others can read or change it. chmod 0600 {name}"]


def _age_warnings(name: str, links: tuple[Link, ...], *, now: float) -> list[str]:
    says: list[str] = []
    for place, link in enumerate(links):
        whose = f"{name}:" if place == 0 else f'{name}: the authority "{link.subject}"'
        if now >= link.until:
            says.append(f"{whose} expired on {_day(link.until)}.")
        elif now < link.begins:
            says.append(f"{whose} is valid from {_day(link.begins)} on; is the clock right?")
        elif place == 0 and link.until - now < min(OLD_DAYS * _DAY_SECONDS, (link.until - link.begins) / 4):
            says.append(f"{whose} expires on {_day(link.until)}.")
    return says


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _chain_warnings(name: str, chain: list[x509.Certificate]) -> list[str]:
    for below, above in pairwise(chain):
        if below.issuer != above.subject:
            return [
                f'{name}: "{_name(below.subject)}" is followed by "{_name(above.subject)}", which did not issue it; '
                "clients may refuse the chain. Order it from the server's certificate upwards."
            ]
    if len(chain) == 1 and _is_issued_below_root(chain[0]):
        return [
            f"{name} holds the server's certificate alone; clients that do not know its issuer refuse it. "
            "Put the authority's intermediate certificates behind it (often called fullchain.pem)."
        ]
    return []


def _is_issued_below_root(certificate: x509.Certificate) -> bool:
    """Whether it says where its issuer's certificate is to be had, as public authorities' do (RFC 5280 §4.2.2.1)."""
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return any(one.access_method == AuthorityInformationAccessOID.CA_ISSUERS for one in access)
