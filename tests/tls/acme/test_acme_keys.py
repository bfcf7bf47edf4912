"""Keys, requests and certificates of ACME."""

import datetime
import ssl

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from elemta.tls.acme.keys import Unsound, issued_pair, key_pem, make_key, read_pair, signing_request

NAMES = ("mail.example.com", "*.example.com")


def test_keys_are_of_the_kind_that_is_asked_for() -> None:
    p256, p384, plain = make_key("ecdsa-p256"), make_key("ecdsa-p384"), make_key("rsa-2048")
    assert isinstance(p256, ec.EllipticCurvePrivateKey)
    assert isinstance(p384, ec.EllipticCurvePrivateKey)
    assert isinstance(plain, rsa.RSAPrivateKey)
    assert (p256.curve.name, p384.curve.name, plain.key_size) == ("secp256r1", "secp384r1", 2048)
    assert key_pem(p256).startswith(b"-----BEGIN PRIVATE KEY-----")


def test_a_request_holds_the_names_and_no_subject() -> None:
    request = x509.load_der_x509_csr(signing_request(make_key("ecdsa-p256"), NAMES))
    assert request.is_signature_valid
    assert request.subject == x509.Name([])
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == list(NAMES)


def test_a_pair_is_read_with_its_facts() -> None:
    issued = trustme.CA().issue_cert("mail.example.com", "EXAMPLE.com")
    pair = read_pair(issued.private_key_and_cert_chain_pem.bytes())
    assert pair.names == {"mail.example.com", "example.com"}
    assert pair.validity.lifetime > 0
    assert "PRIVATE KEY" not in repr(pair)


def test_what_does_not_serve_is_refused() -> None:
    ours = trustme.CA().issue_cert("mail.example.com")
    theirs = trustme.CA().issue_cert("mail.example.com")
    chain = b"".join(each.bytes() for each in ours.cert_chain_pems)
    for broken in (b"", b"nonsense", ours.private_key_pem.bytes(), chain):
        with pytest.raises(Unsound, match="no key with a certificate"):
            read_pair(broken)
    with pytest.raises(Unsound, match="does not fit"):
        read_pair(theirs.private_key_pem.bytes() + chain)


@pytest.mark.parametrize("curve", ["157", "1ff"])
def test_a_certificate_whose_inside_cannot_be_read_is_refused(curve: str) -> None:
    key = make_key("ecdsa-p256")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    chain = certificate(key, serial=1, identifier=b"x").decode()
    p256, unknown = (bytes.fromhex(f"06082a8648ce3d030{each}") for each in ("107", curve))
    spoilt = ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(chain).replace(p256, unknown)).encode()
    with pytest.raises(Unsound, match="no key with a certificate"):
        read_pair(key_pem(key) + spoilt)


def test_a_certificate_whose_version_nobody_knows_is_refused() -> None:
    key = make_key("ecdsa-p256")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    chain = certificate(key, serial=1, identifier=b"x").decode()
    version = b"\xa0\x03\x02\x01"
    spoilt = ssl.PEM_cert_to_DER_cert(chain).replace(version + b"\x02", version + b"\x61", 1)
    with pytest.raises(Unsound, match="no key with a certificate"):
        read_pair(key_pem(key) + ssl.DER_cert_to_PEM_cert(spoilt).encode())


def test_what_was_issued_must_hold_every_name() -> None:
    key = make_key("ecdsa-p256")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    with pytest.raises(Unsound, match=r"lacks \*\.example\.com"):
        issued_pair(key, certificate(key, serial=1, identifier=b"x"), NAMES)
    assert issued_pair(key, certificate(key, serial=1, identifier=b"x"), NAMES[:1]).id == "eA.AQ"


@pytest.mark.parametrize(
    ("serial", "identifier", "expected"),
    [
        # The example of RFC 9773 §4.1.
        (0x87654321, bytes.fromhex("69885b6b874640 41e1b37b847ba0ae2cde01c8d4"), "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"),
        (0x7F, b"x", "eA.fw"),
        (0x80, b"x", "eA.AIA"),
        (1, None, ""),
    ],
)
def test_the_id_of_a_certificate_is_that_of_the_standard(serial: int, identifier: bytes | None, expected: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert read_pair(key_pem(key) + certificate(key, serial=serial, identifier=identifier)).id == expected


def certificate(key: ec.EllipticCurvePrivateKey, *, serial: int, identifier: bytes | None) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    begin = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAMES[0])]), critical=False)
    )
    if identifier is not None:
        builder = builder.add_extension(x509.AuthorityKeyIdentifier(identifier, None, None), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
