"""The certificate that a server makes for itself."""

import os
import ssl
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from elemta.tls.selfsigned import BEGINS_EARLIER, CERT_NAME, KEY_NAME, VALID_FOR, SelfSigned, self_signed

HOSTNAME = "mail.example.com"
#: Handshakes are judged by the machine's clock, so the certificate for them is of now.
NOW = datetime.now(UTC).replace(microsecond=0).timestamp()


def shake_hands(found: SelfSigned, hostname: str) -> str | None:
    """Speak TLS with a client that trusts this certificate and asks for `hostname`; the version they agree on."""
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(found.cert_file, found.key_file)
    theirs = ssl.create_default_context(cafile=str(found.cert_file))
    theirs.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = ours.wrap_bio(to_server, to_client, server_side=True)
    client = theirs.wrap_bio(to_client, to_server, server_hostname=hostname)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.version()


def test_a_client_that_trusts_it_connects_under_its_name_alone(tmp_path: Path) -> None:
    found = self_signed(tmp_path, HOSTNAME, now=NOW)
    assert shake_hands(found, HOSTNAME) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(found, "other.example.com")


def test_a_long_name_has_room(tmp_path: Path) -> None:
    hostname = ".".join(["a" * 63, "b" * 63, "c" * 63, "example", "com"])
    assert shake_hands(self_signed(tmp_path, hostname, now=NOW), hostname) == "TLSv1.3"


def test_the_files_are_this_users(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        found = self_signed(tmp_path / "queue" / "tls", HOSTNAME, now=NOW)
    finally:
        os.umask(before)
    assert stat.S_IMODE(found.key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(found.cert_file.stat().st_mode) == 0o644
    assert stat.S_IMODE(found.cert_file.parent.stat().st_mode) == 0o700
    assert sorted(path.name for path in found.cert_file.parent.iterdir()) == [KEY_NAME, CERT_NAME]


@pytest.mark.parametrize(
    ("later", "made"),
    [
        (timedelta(0), False),
        (VALID_FOR - timedelta(seconds=1), False),
        (VALID_FOR, True),
        (-BEGINS_EARLIER, False),
        (-BEGINS_EARLIER - timedelta(seconds=1), True),
    ],
)
def test_it_is_used_again_while_it_is_valid(tmp_path: Path, later: timedelta, made: bool) -> None:
    first = self_signed(tmp_path, HOSTNAME, now=NOW)
    assert first.made
    assert first.until == datetime.fromtimestamp(NOW, UTC) + VALID_FOR
    octets = first.cert_file.read_bytes()
    second = self_signed(tmp_path, HOSTNAME, now=NOW + later.total_seconds())
    assert second.made is made
    assert (second.cert_file.read_bytes() != octets) is made
    assert second.until == (first.until + later if made else first.until)


def test_another_name_gets_another(tmp_path: Path) -> None:
    self_signed(tmp_path, HOSTNAME, now=NOW)
    found = self_signed(tmp_path, "mx.example.com", now=NOW)
    assert found.made
    assert shake_hands(found, "mx.example.com") == "TLSv1.3"


def key_is_missing(folder: Path) -> None:
    (folder / KEY_NAME).unlink()


def certificate_is_missing(folder: Path) -> None:
    (folder / CERT_NAME).unlink()


def key_is_another(folder: Path) -> None:
    other = self_signed(folder / "other", HOSTNAME, now=NOW)
    other.key_file.rename(folder / KEY_NAME)


def key_is_cut_off(folder: Path) -> None:
    (folder / KEY_NAME).write_bytes((folder / KEY_NAME).read_bytes()[:100])


def certificate_is_empty(folder: Path) -> None:
    (folder / CERT_NAME).write_bytes(b"")


def key_is_readable(folder: Path) -> None:
    (folder / KEY_NAME).chmod(0o640)


def half_a_key_lies_beside(folder: Path) -> None:
    (folder / KEY_NAME).rename(folder / f"{KEY_NAME}.new")


@pytest.mark.parametrize(
    "harm",
    [
        key_is_missing,
        certificate_is_missing,
        key_is_another,
        key_is_cut_off,
        certificate_is_empty,
        key_is_readable,
        half_a_key_lies_beside,
    ],
)
def test_a_pair_that_does_not_serve_is_made_again(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    self_signed(tmp_path, HOSTNAME, now=NOW)
    harm(tmp_path)
    found = self_signed(tmp_path, HOSTNAME, now=NOW)
    assert found.made
    assert shake_hands(found, HOSTNAME) == "TLSv1.3"
    assert stat.S_IMODE(found.key_file.stat().st_mode) == 0o600


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "tls").write_text("a file")
    with pytest.raises(OSError, match="Not a directory"):
        self_signed(tmp_path / "tls", HOSTNAME, now=NOW)
