"""What is read out of a certificate and its key, and what is wrong with them, in words for people."""

import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from elemta.tls.certificates import Certificate, end_point_binding, read_certificate
from elemta.tls.contexts import TlsUnusable

DAY = 86_400.0
NOW = datetime(2026, 6, 1, tzinfo=UTC)

Hash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512
SHA256 = hashes.SHA256()


class Maker:
    """Makes certificates of a day, and the files that hold them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())

    def certificate(
        self,
        *names: str,
        begins: datetime = NOW - timedelta(days=1),
        days: float = 90,
        issuer: str = "An authority",
        subject: str = "mx",
        issuer_at: str = "",
        algorithm: Hash = SHA256,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(self.key.public_key())
            .serial_number(0xABC)
            .not_valid_before(begins)
            .not_valid_after(begins + timedelta(days=days))
        )
        if names:
            alternatives = [x509.DNSName(name) for name in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        if issuer_at:
            place = x509.AccessDescription(
                AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(issuer_at)
            )
            builder = builder.add_extension(x509.AuthorityInformationAccess([place]), critical=False)
        return builder.sign(self.key, algorithm)

    def write(self, *chain: x509.Certificate, key: object = None, mode: int = 0o600) -> tuple[str, str]:
        cert_file, key_file = self.folder / "cert.pem", self.folder / "key.pem"
        cert_file.write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain))
        key_file.write_bytes(pem(self.key) if key is None else pem(key))
        key_file.chmod(mode)
        return str(cert_file), str(key_file)

    def read(self, *chain: x509.Certificate, mode: int = 0o600) -> Certificate:
        return read_certificate(*self.write(*chain, mode=mode), now=NOW.timestamp())


def pem(key: object, password: bytes | None = None) -> bytes:
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey)
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def unusable(cert_file: str, key_file: str) -> str:
    with pytest.raises(TlsUnusable) as caught:
        read_certificate(cert_file, key_file, now=NOW.timestamp())
    return str(caught.value)


# ---- what is in it -------------------------------------------------------------------------------


def test_a_sound_pair(maker: Maker) -> None:
    leaf = maker.certificate("MX.example.com", "*.example.com", "mx.example.com", issuer="One")
    above = maker.certificate(subject="One", issuer="Root", days=3650)
    found = maker.read(leaf, above)
    assert found.names == ("mx.example.com", "*.example.com")
    assert [(link.subject, link.issuer) for link in found.chain] == [("CN=mx", "CN=One"), ("CN=One", "CN=Root")]
    assert (found.begins, found.until) == (NOW.timestamp() - DAY, NOW.timestamp() + 89 * DAY)
    assert (found.key, found.serial) == ("ECDSA secp256r1", "abc")
    der = leaf.public_bytes(serialization.Encoding.DER)
    assert found.fingerprint == hashlib.sha256(der).hexdigest()
    assert found.binding == hashlib.sha256(der).digest()
    assert found.warnings == ()


def test_key_and_certificate_may_share_a_file(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("mx.example.com", key_type=trustme.KeyType.RSA)
    path = tmp_path / "pair.pem"
    path.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    path.chmod(0o600)
    found = read_certificate(str(path), str(path), now=datetime.now(UTC).timestamp())
    assert (found.names, found.key) == (("mx.example.com",), "RSA 2048")
    assert found.warnings == ()


@pytest.mark.parametrize(("algorithm", "size"), [(hashes.SHA256(), 32), (hashes.SHA384(), 48), (hashes.SHA512(), 64)])
def test_the_binding_is_by_the_signatures_own_hash(maker: Maker, algorithm: Hash, size: int) -> None:
    assert len(end_point_binding(maker.certificate(algorithm=algorithm))) == size


def test_a_weak_hash_gives_way_to_sha_256() -> None:
    # Nobody signs with SHA-1 any more, and the library no longer does: this one is from before.
    text = (Path(__file__).parent / "sha1.pem").read_text()
    certificate = x509.load_pem_x509_certificate(text.encode())
    assert end_point_binding(certificate) == hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).digest()


def test_there_is_no_binding_where_none_is_defined(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mx")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    assert end_point_binding(builder.sign(key, None)) == b""


# ---- what is odd ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o600, False), (0o400, False), (0o640, False), (0o644, True), (0o660, True), (0o602, True)]
)
def test_a_key_that_others_reach_is_named(maker: Maker, mode: int, warned: bool) -> None:
    warnings = maker.read(maker.certificate("mx.example.com"), mode=mode).warnings
    assert len(warnings) == warned
    assert all("key.pem" in says and "chmod 0600" in says for says in warnings)


@pytest.mark.parametrize(
    ("begins", "days", "says"),
    [
        (NOW - timedelta(days=90), 90, "expired on 2026-06-01 00:00 UTC."),
        (NOW + timedelta(days=1), 90, "is valid from 2026-06-02 00:00 UTC on; is the clock right?"),
        (NOW - timedelta(days=80), 90, "expires on 2026-06-11 00:00 UTC."),
        (NOW - timedelta(days=60), 90, ""),
        (NOW - timedelta(days=3), 6, ""),  # a short-lived one is not old when it has days left
        (NOW - timedelta(days=5), 6, "expires on"),
    ],
)
def test_its_age_is_judged(maker: Maker, begins: datetime, days: float, says: str) -> None:
    warnings = maker.read(maker.certificate("mx.example.com", begins=begins, days=days)).warnings
    assert len(warnings) == bool(says)
    assert all(says in warning and "cert.pem" in warning for warning in warnings)


def test_an_authority_that_has_expired_is_named(maker: Maker) -> None:
    above = maker.certificate(subject="An authority", begins=NOW - timedelta(days=100), days=50)
    (says,) = maker.read(maker.certificate("mx.example.com"), above).warnings
    assert 'the authority "CN=An authority" expired on' in says


def test_a_chain_out_of_order_is_named(maker: Maker) -> None:
    (says,) = maker.read(maker.certificate("mx.example.com"), maker.certificate(subject="Another")).warnings
    assert '"CN=mx" is followed by "CN=Another", which did not issue it' in says


def test_a_public_certificate_without_its_intermediate_is_named(maker: Maker) -> None:
    leaf = maker.certificate("mx.example.com", issuer_at="http://ca.example/issuer.der")
    (says,) = maker.read(leaf).warnings
    assert "fullchain.pem" in says
    assert maker.read(leaf, maker.certificate(subject="An authority")).warnings == ()


def test_a_certificate_without_names_is_named(maker: Maker) -> None:
    (says,) = maker.read(maker.certificate()).warnings
    assert "holds no DNS name" in says


# ---- what cannot be served -----------------------------------------------------------------------


def test_files_that_are_not_there(maker: Maker, tmp_path: Path) -> None:
    cert_file, key_file = maker.write(maker.certificate("mx.example.com"))
    assert unusable("/nowhere.pem", key_file) == "there is no file /nowhere.pem, which is to hold the certificate."
    assert unusable(cert_file, "/nowhere.key") == "there is no file /nowhere.key, which is to hold the private key."
    assert "cannot be read: Is a directory" in unusable(str(tmp_path), key_file)


def test_a_key_that_does_not_fit(maker: Maker) -> None:
    files = maker.write(maker.certificate("mx.example.com"), key=ec.generate_private_key(ec.SECP256R1()))
    assert "does not belong to the first certificate" in unusable(*files)


def test_a_certificate_file_without_one(maker: Maker) -> None:
    _, key_file = maker.write(maker.certificate("mx.example.com"))
    assert "holds no certificate in PEM" in unusable(key_file, key_file)


def test_a_certificate_that_is_cut(maker: Maker) -> None:
    cert_file, key_file = maker.write(maker.certificate("mx.example.com"))
    text = Path(cert_file).read_text()
    Path(cert_file).write_text(text[:200] + text[260:])
    assert "cert.pem holds a broken certificate" in unusable(cert_file, key_file)


#: P-256 in DER, then a curve that nobody has named.
CURVES = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030157")


@pytest.mark.parametrize(("octets", "others"), [CURVES, (b"\x0c\x0cAn authority", b"\x15\x0cAn authority")])
def test_a_certificate_whose_inside_cannot_be_read(maker: Maker, octets: bytes, others: bytes) -> None:
    certificate = maker.certificate("mx.example.com")
    cert_file, key_file = maker.write(certificate)
    spoilt = certificate.public_bytes(serialization.Encoding.DER).replace(octets, others)
    Path(cert_file).write_text(ssl.DER_cert_to_PEM_cert(spoilt))
    assert "cert.pem holds a certificate that cannot be read" in unusable(cert_file, key_file)


@pytest.mark.parametrize(
    "content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"]
)
def test_a_key_file_without_one(maker: Maker, content: bytes) -> None:
    cert_file, key_file = maker.write(maker.certificate("mx.example.com"))
    Path(key_file).write_bytes(content)
    says = unusable(cert_file, key_file)
    assert "key.pem holds no private key in PEM" in says
    assert "c2Vj" not in says


def test_a_key_under_a_passphrase(maker: Maker) -> None:
    cert_file, key_file = maker.write(maker.certificate("mx.example.com"))
    Path(key_file).write_bytes(pem(maker.key, b"geheim"))
    assert "is encrypted" in unusable(cert_file, key_file)
    assert "openssl pkey" in unusable(cert_file, key_file)
