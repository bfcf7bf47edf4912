"""REQUIRETLS (RFC 8689) over two running servers: kept from hop to hop, refused where the next one has no TLS."""

import smtplib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.peers.wire import wait_until

MAIL = "Subject: for the two of us\r\n\r\nhello\r\n"
#: Where the second server keeps mail, and where it would have to send it in clear.
KEPT, IN_CLEAR = "jo@kept.example", "jo@clear.example"


@pytest.fixture
def servers(tmp_path: Path, sink: RecordingSink) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """The first hands everything to the second, which keeps one domain and has a next hop without TLS for the other."""
    authority = trustme.CA()
    trust = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(trust))

    def folder(name: str) -> tuple[Path, dict[str, Any]]:
        (tmp_path / name).mkdir()
        pair = tmp_path / name / "pair.pem"
        pair.write_bytes(authority.issue_cert(f"{name}.example").private_key_and_cert_chain_pem.bytes())
        pair.chmod(0o600)
        usual: dict[str, Any] = {
            "hostname": f"{name}.example",
            "allowed_relays": ["127.0.0.1"],
            "listeners": [{"address": "127.0.0.1:0", "tls": "starttls"}],
            "tls": {"enabled": True, "cert_file": str(pair), "key_file": str(pair)},
        }
        return tmp_path / name, usual

    (tmp_path / "mail").mkdir()
    place, config = folder("second")
    config |= {
        "local_domains": ["kept.example"],
        "local_recipients": [KEPT],
        "routes": [
            {"domain": "kept.example", "transport": "maildir", "path": str(tmp_path / "mail" / "{local}")},
            {"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": sink.port},
        ],
    }
    with ServerProcess(place, config) as second:
        place, config = folder("first")
        onward = {"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": second.port}
        config["routes"] = [{**onward, "tls_name": "second.example", "tls_ca_file": str(trust)}]
        with ServerProcess(place, config) as first:
            yield first, second


def send(server: ServerProcess, recipient: str, *options: str) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP("127.0.0.1", server.port, local_hostname="client.example", timeout=30) as client:
        client.starttls(context=context)
        client.ehlo()
        assert client.has_extn("requiretls")
        client.sendmail("", [recipient], MAIL, mail_options=options)


def outcomes(server: ServerProcess) -> list[dict[str, str]]:
    return [event for event in server.events if event["event"] == "delivery.outcome"]


def test_it_is_kept_to_the_mailbox(servers: tuple[ServerProcess, ServerProcess], tmp_path: Path) -> None:
    first, _ = servers
    send(first, KEPT, "REQUIRETLS")
    wait_until(lambda: any((tmp_path / "mail" / "jo" / "new").glob("*")), "the mail is in its mailbox")
    (outcome,) = outcomes(first)
    assert outcome["tls"].endswith("verified"), "what its route alone would not ask for"


def test_it_goes_no_further_than_tls_does(
    servers: tuple[ServerProcess, ServerProcess], sink: RecordingSink, tmp_path: Path
) -> None:
    first, second = servers
    send(first, IN_CLEAR, "REQUIRETLS")
    wait_until(lambda: bool(outcomes(second)), "the second server has tried")
    (outcome,) = outcomes(second)
    assert "5.7.30" in str(outcome)
    send(first, IN_CLEAR)
    (caught,) = sink.wait_for(1)
    assert b"for the two of us" in caught.content
