"""Real clients send mail in; what leaves is byte for byte what they sent, plus our trace field."""

import random
import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from elemta.testing.process import ServerProcess
from elemta.testing.sink import Caught, RecordingSink
from tests.peers.wire import Door, Wire, encrypting

SENDER = "sender@example.org"
RECIPIENT = "recipient@example.net"


@pytest.fixture
def sink() -> Iterator[RecordingSink]:
    with RecordingSink() as sink:
        yield sink


@pytest.fixture
def relay(tmp_path: Path, sink: RecordingSink) -> Iterator[ServerProcess]:
    config = {
        "hostname": "relay.example.com",
        "allowed_relays": ["127.0.0.1"],
        "routes": [{"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": sink.port}],
    }
    with ServerProcess(tmp_path, config) as server:
        yield server


def own_part(caught: Caught) -> bytes:
    """The content without the one field that we put before it."""
    assert caught.content.startswith(b"Received: from ")
    lines = caught.content.split(b"\r\n")
    own = 1
    while lines[own][:1] in (b" ", b"\t"):
        own += 1
    return b"\r\n".join(lines[own:])


def body_of(size: int, seed: int) -> bytes:
    """Lines of text with dots where they hurt most."""
    chance = random.Random(seed)
    lines = []
    while size > 0:
        line = b"." * chance.randrange(3) + bytes(chance.choices(b"abc. \t=", k=chance.randrange(0, 900)))
        lines.append(line)
        size -= len(line) + 2
    return b"\r\n".join(lines) + b"\r\n"


@pytest.mark.parametrize("size", [0, 4096, 200_000, 3_000_000])
def test_smtplib(relay: ServerProcess, sink: RecordingSink, size: int) -> None:
    content = b"Subject: hello\r\n\r\n" + body_of(size, seed=size)
    with smtplib.SMTP("127.0.0.1", relay.port, local_hostname="client") as client:
        refused = client.sendmail(SENDER, [RECIPIENT, "second@example.net"], content)
    assert refused == {}
    (caught,) = sink.wait_for(1)
    assert own_part(caught) == content
    assert caught.mail.startswith(f"MAIL FROM:<{SENDER}>".encode())
    assert [line[:34] for line in caught.recipients] == [
        f"RCPT TO:<{RECIPIENT}>".encode()[:34],
        b"RCPT TO:<second@example.net>"[:34],
    ]


@pytest.mark.needs("swaks")
@pytest.mark.parametrize("options", [[], ["--pipeline"], ["--protocol", "SMTP"]], ids=["esmtp", "pipelining", "helo"])
def test_swaks(relay: ServerProcess, sink: RecordingSink, options: list[str]) -> None:
    subprocess.run(
        [
            "swaks",
            "--server",
            f"127.0.0.1:{relay.port}",
            "-f",
            SENDER,
            "-t",
            RECIPIENT,
            "--body",
            "..\\n.x\\n",
            *options,
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    (caught,) = sink.wait_for(1)
    assert b"\r\n..\r\n.x\r\n" in caught.content


@pytest.mark.needs("curl")
def test_curl(relay: ServerProcess, sink: RecordingSink, tmp_path: Path) -> None:
    mail = tmp_path / "mail"
    mail.write_bytes(b"Subject: from curl\r\n\r\n.leading dot\r\n")
    subprocess.run(
        ["curl", "-sS", f"smtp://127.0.0.1:{relay.port}", "--mail-from", SENDER, "--mail-rcpt", RECIPIENT, "-T", mail],
        check=True,
        timeout=30,
    )
    (caught,) = sink.wait_for(1)
    assert own_part(caught) == mail.read_bytes()


@pytest.mark.needs("smtp-source")
def test_smtp_source(relay: ServerProcess, sink: RecordingSink, needs: "object") -> None:
    program = needs("smtp-source")  # type: ignore[operator]  # the fixture is a function, see conftest
    for options in ([], ["-d"]):
        subprocess.run(
            [
                program,
                *options,
                "-s",
                "10",
                "-m",
                "200",
                "-l",
                "4096",
                "-f",
                SENDER,
                "-t",
                RECIPIENT,
                f"127.0.0.1:{relay.port}",
            ],
            check=True,
            timeout=60,
        )
    caught = sink.wait_for(400)
    assert len(caught) == 400
    assert all(len(own_part(mail)) >= 4096 for mail in caught)


def test_a_stranger_may_not_relay(tmp_path: Path) -> None:
    with (
        ServerProcess(tmp_path, {"hostname": "relay.example.com"}) as server,
        smtplib.SMTP("127.0.0.1", server.port, local_hostname="client") as client,
    ):
        client.ehlo()
        assert client.mail(SENDER)[0] == 250
        code, text = client.rcpt(RECIPIENT)
        assert (code, text[:5]) == (550, b"5.7.1")


#: Ways of asking for a domain that is not ours: RFC 5321 appendix C's source routes, `%` of RFC 1123 §5.2.16, UUCP's
#: `!`, quoted and bracketed ones, and what looks like ours.
RELAY_FORMS = [
    b"victim@example.net",
    b"@relay.example.com:victim@example.net",
    b"@relay.example.com,@other.example:victim@example.net",
    b"victim%example.net@relay.example.com",
    b"victim%example.net@local.example",
    b'"victim@example.net"@local.example',
    b'"victim%example.net"@local.example',
    b"example.net!victim@local.example",
    b"example.net!victim",
    b"victim@[192.0.2.1]",
    b"victim@[127.0.0.1]",
    b"victim@local.example@example.net",
    b"victim@example.net@local.example",
    b"victim@localhost",
    b"victim@local.example.example.net",
]


@pytest.mark.parametrize("door", Door)
def test_no_form_of_an_address_opens_a_door(tmp_path: Path, door: Door, certificate: Path) -> None:
    config = {
        "hostname": "relay.example.com",
        "local_domains": ["local.example"],
        "local_recipients": ["known@local.example"],
        "routes": [{"domain": "local.example", "transport": "maildir", "path": "/nonexistent/{local}"}],
        "limits": {"max_errors": 1000},
        "listeners": [{"address": "127.0.0.1:0", "tls": door.value}],
        **encrypting(door, certificate),
    }
    with ServerProcess(tmp_path, config) as server, Wire(server.port, door=door) as wire:
        wire.greeting()
        wire.ask(b"EHLO stranger.example\r\n")
        for sender in (b"spammer@example.org", b"known@local.example", b"", b"root@relay.example.com"):
            wire.ask(b"RSET\r\n")
            assert wire.ask(b"MAIL FROM:<" + sender + b">\r\n")[:3] == b"250"
            for form in RELAY_FORMS:
                assert wire.ask(b"RCPT TO:<" + form + b">\r\n")[:2] in (b"55", b"50"), (sender, form)
            assert wire.ask(b"RCPT TO:<known@local.example>\r\n")[:3] == b"250"


@pytest.mark.needs("nmap")
def test_nmap_finds_no_open_relay(tmp_path: Path) -> None:
    config = {"hostname": "relay.example.com", "limits": {"max_errors": 1000}}
    with ServerProcess(tmp_path, config) as server:
        found = subprocess.run(
            ["nmap", "-Pn", "-p", str(server.port), "-sV", "--script", "smtp-open-relay", "127.0.0.1"],
            check=True,
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert "Elemta" in found.stdout or "smtp" in found.stdout
    assert "Server is an open relay" not in found.stdout
