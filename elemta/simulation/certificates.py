"""The certificates of a simulated world with the contexts that hold them.

What is not here: handshakes (`simulation.channel`), which host shows which certificate (`simulation.personality`).
OpenSSL draws its keys itself, so nothing that it makes may differ in length from one run to the next: certificates
come octet for octet the same from fixed keys, signatures by Ed25519 always have 64 octets (RFC 8032 §5.1.6), session
tickets are not given. OpenSSL judges validity by the real clock: these are good for longer than anybody will run them.
This module imports `cryptography`, which is slow: import it late. Failures raised: `OSError` for a full disk.
"""

import hashlib
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from elemta.simulation.personality import Shown
from elemta.simulation.scenario import CA_FILE, CERT_FILE

#: The clock of the world stands in 2023, that of OpenSSL wherever the machine's does.
_BEGINS = datetime(2020, 1, 1, tzinfo=UTC)
_ENDS = datetime(2120, 1, 1, tzinfo=UTC)
#: A name that no host of any world has.
_OTHER_NAME = "other.invalid"


@contextmanager
def certificates(names: Sequence[str]) -> Iterator["Certificates"]:
    """Certificates of an authority of the world's own, for hosts of these names; in a folder until the world ends."""
    with tempfile.TemporaryDirectory(prefix="elemta-world-tls-") as folder:
        yield Certificates(Path(folder), names)


class Certificates:
    """Files in PEM for the server, contexts for scripted peers. Contexts are made when they are first needed."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        ours, theirs = _Authority("authority"), _Authority("somebody")
        (folder / CA_FILE).write_bytes(ours.certificate)
        # The key of the server is for its eyes alone, as it would tell us otherwise.
        (folder / CERT_FILE).touch(mode=0o600)
        pairs = {
            CERT_FILE: ours.sign(names),
            _file_of(Shown.GOOD): ours.sign(names),
            _file_of(Shown.OTHER_NAME): ours.sign([_OTHER_NAME]),
            _file_of(Shown.OTHER_AUTHORITY): theirs.sign(names),
        }
        for name, pair in pairs.items():
            (folder / name).write_bytes(pair)
        self._servers: dict[tuple[Shown, bool], ssl.SSLContext] = {}
        self._clients: dict[bool, ssl.SSLContext] = {}

    def file(self, name: str) -> str:
        """Where a file of the configuration really lies."""
        return str(self.folder / name)

    def server(self, shown: Shown, *, old: bool) -> ssl.SSLContext:
        """The context of a host that shows this certificate; an `old` one speaks TLS 1.2 at most."""
        found = self._servers.get((shown, old))
        if found is None:
            found = self._servers[shown, old] = _context(ssl.PROTOCOL_TLS_SERVER, old=old)
            found.load_cert_chain(self.folder / _file_of(shown))
            found.num_tickets = 0
            found.options |= ssl.OP_NO_TICKET
        return found

    def client(self, *, old: bool) -> ssl.SSLContext:
        """The context of a client, which takes any certificate as mail clients of the internet do (RFC 7435)."""
        found = self._clients.get(old)
        if found is None:
            found = self._clients[old] = _context(ssl.PROTOCOL_TLS_CLIENT, old=old)
        return found


def _context(protocol: int, *, old: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # One kind of cipher, whose records all grow by as much: see `simulation.channel`.
    context.set_ciphers("ECDHE+AESGCM")
    if old:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def _file_of(shown: Shown) -> str:
    return f"{shown.value}.pem"


class _Authority:
    """Signs, and is trusted by whoever has its certificate (PEM)."""

    def __init__(self, name: str) -> None:
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} of a simulated world")])
        self._key = _key(name)
        self._issued = 1
        usage = _usage(signs=True)
        built = _builder(self._name, self._name, self._key, serial=1)
        built = built.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        built = built.add_extension(usage, critical=True)
        self.certificate = built.sign(self._key, None).public_bytes(serialization.Encoding.PEM)

    def sign(self, names: Sequence[str]) -> bytes:
        """A certificate for these names with its key, in PEM."""
        self._issued += 1
        key = _key("\n".join(names))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "simulated")])
        issuer = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        built = _builder(subject, self._name, key, serial=self._issued)
        for extension, critical in (
            (x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False),
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(signs=False), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), False),
        ):
            built = built.add_extension(extension, critical=critical)
        return built.sign(self._key, None).public_bytes(serialization.Encoding.PEM) + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def _key(name: str) -> Ed25519PrivateKey:
    """The same key for the same name: it protects nothing that exists."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def _builder(subject: x509.Name, issuer: x509.Name, key: Ed25519PrivateKey, *, serial: int) -> x509.CertificateBuilder:
    built = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    built = built.serial_number(serial).not_valid_before(_BEGINS).not_valid_after(_ENDS)
    return built.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
