"""What the keys of TLS mean together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from elemta.config.load import Loaded
from elemta.config.problems import ConfigError
from elemta.config.tls_checks import plain_fingerprint

Configure = Callable[..., Loaded]

UNNAMED = (
    "tls.enabled needs a certificate and its key; this one is not named. "
    "Name them, or have them ordered by tls.lets_encrypt."
)
SELF_SIGNED = " Dev mode makes a self-signed one at its start."


def problems(configure: Configure, written: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        configure(written)
    return [(problem.key, problem.says) for problem in caught.value.problems]


def warnings(configure: Configure, written: dict[str, Any]) -> list[tuple[str, str]]:
    return [(warning.key, warning.says) for warning in configure(written).warnings]


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, Any]:
    """The section of a sound TLS; what is in the files is looked at by the start alone."""
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).touch(mode=0o600)
    return {"enabled": True, "cert_file": "c.pem", "key_file": "k.pem"}


# ---- the certificate -----------------------------------------------------------------------------


def test_tls_with_a_certificate_is_taken_in_silence(configure: Configure, pair: dict[str, Any]) -> None:
    assert warnings(configure, {"tls": pair}) == []


def test_tls_with_an_authority_needs_no_file(configure: Configure) -> None:
    section = {"enabled": True, "domain": "mail.elemta.org", "email": "a@elemta.org"}
    assert warnings(configure, {"tls": {"enabled": True, "lets_encrypt": section}}) == []


def test_tls_needs_a_certificate_but_in_dev_mode(configure: Configure) -> None:
    written = {"tls": {"enabled": True}}
    assert problems(configure, written) == [("tls.cert_file", UNNAMED), ("tls.key_file", UNNAMED)]
    assert warnings(configure, {**written, "dev_mode": True}) == [
        ("tls.cert_file", UNNAMED + SELF_SIGNED),
        ("tls.key_file", UNNAMED + SELF_SIGNED),
    ]


def test_a_certificate_without_its_key_is_not_enough(configure: Configure, pair: dict[str, Any]) -> None:
    del pair["key_file"]
    assert problems(configure, {"tls": pair}) == [
        ("tls.key_file", "a certificate and its key are needed; this one is not named.")
    ]


def test_files_must_be_there(configure: Configure, pair: dict[str, Any]) -> None:
    pair["cert_file"] = "nowhere.pem"
    pair["certificates"] = [{"cert_file": "c.pem", "key_file": "elsewhere.pem"}]
    says = 'found "{}", expected the name of a file that exists.'
    assert problems(configure, {"tls": pair}) == [
        ("tls.cert_file", says.format("nowhere.pem")),
        ("tls.certificates[0].key_file", says.format("elsewhere.pem")),
    ]


def test_a_key_that_everybody_may_read_is_named(configure: Configure, pair: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "k.pem").chmod(0o644)
    pair["certificates"] = [{"cert_file": "c.pem", "key_file": "k.pem"}]
    says = "every user of this machine can read this key. Run: chmod 0600 k.pem"
    assert warnings(configure, {"tls": pair}) == [("tls.key_file", says), ("tls.certificates[0].key_file", says)]


# ---- listeners -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["starttls", "implicit"])
@pytest.mark.parametrize("dev_mode", [False, True])
def test_a_listener_with_tls_needs_it_enabled(configure: Configure, mode: str, dev_mode: bool) -> None:
    listeners = [{"address": ":25"}, {"address": ":465", "tls": mode}]
    assert problems(configure, {"listeners": listeners, "dev_mode": dev_mode}) == [
        ("listeners[1].tls", 'this listener needs TLS, but tls.enabled is false. Set it to true, or "none" here.')
    ]


def test_tls_that_nobody_speaks_is_named(configure: Configure, pair: dict[str, Any]) -> None:
    assert warnings(configure, {"tls": pair, "listeners": [{"address": ":25"}]}) == [
        ("tls.enabled", 'no listener speaks TLS. Set "tls": "starttls" or "implicit" at those that shall.')
    ]


def test_a_tls_section_that_is_off_may_say_anything(configure: Configure) -> None:
    assert warnings(configure, {"tls": {"enabled": False, "cert_file": "nowhere"}}) == []


def test_dev_mode_says_where_it_listens_instead(configure: Configure, pair: dict[str, Any]) -> None:
    written = {"dev_mode": True, "tls": {**pair, "listen_addr": ":465"}}
    ((key, says),) = warnings(configure, written)
    assert key == "tls.listen_addr"
    assert says.startswith("dev mode listens at 127.0.0.1:2465 instead")
    assert warnings(configure, {"dev_mode": True, "tls": pair}) == []


# ---- versions, client certificates ---------------------------------------------------------------


def test_the_newest_version_is_not_older_than_the_oldest(configure: Configure, pair: dict[str, Any]) -> None:
    assert problems(configure, {"tls": {**pair, "min_version": "1.3", "max_version": "1.2"}}) == [
        ("tls.max_version", 'found "tls1.2", older than tls.min_version, "tls1.3".')
    ]
    assert warnings(configure, {"tls": {**pair, "min_version": "1.3", "max_version": "1.3"}}) == []


def test_client_certificates_need_their_authorities(configure: Configure, pair: dict[str, Any], tmp_path: Path) -> None:
    pair["client_auth"] = "request"
    assert [key for key, _ in problems(configure, {"tls": pair})] == ["tls.client_auth"]
    pair["client_ca_file"] = "c.pem"
    assert problems(configure, {"tls": pair}) == [
        ("tls.client_ca_file", 'the file "c.pem" holds no certificates in PEM that can be read.')
    ]
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    pair["client_ca_file"] = "ca.pem"
    assert warnings(configure, {"tls": pair}) == []


def test_what_client_certificates_are_for_needs_them(configure: Configure, pair: dict[str, Any]) -> None:
    pair.update(client_ca_file="c.pem", relay_certificates=["ab" * 32])
    says = 'not used: clients are asked for no certificate. Set tls.client_auth to "request".'
    assert warnings(configure, {"tls": pair}) == [("tls.client_ca_file", says), ("tls.relay_certificates", says)]


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        ("ab" * 32, True),
        (":".join(["AB"] * 32), True),
        ("ab" * 31, False),
        ("ab" * 20, False),
        ("zz" * 32, False),
        ("sha256:" + "ab" * 32, False),
    ],
)
def test_a_fingerprint_is_sha_256(configure: Configure, pair: dict[str, Any], text: str, sound: bool) -> None:
    written = {"tls": {**pair, "relay_certificates": [text]}}
    if sound:
        assert [key for key, _ in warnings(configure, written)] == ["tls.relay_certificates"]
        assert plain_fingerprint(text) == "ab" * 32
    else:
        assert [key for key, _ in problems(configure, written)] == ["tls.relay_certificates[0]"]
