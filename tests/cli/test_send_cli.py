"""`elemta send` against servers that take the mail, refuse it, or vanish: what is printed, how it ends."""

import email
import email.policy
import io
import json
import socket
import sys
from email.message import EmailMessage
from pathlib import Path

import pytest

from elemta.cli import send as send_module
from elemta.cli import send_plan
from tests.cli.at_desk import Ended, Terminal
from tests.cli.send_server import ScriptedServer


@pytest.fixture
def send(terminal: Terminal) -> "Send":
    return Send(terminal)


class Send:
    """Runs the command."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def __call__(self, server: ScriptedServer | str, *words: str) -> Ended:
        address = server if isinstance(server, str) else server.address
        return self._terminal.run("send", "--server", address, "--to", "jo@x.org", "--helo", "me", *words)


def give(monkeypatch: pytest.MonkeyPatch, octets: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(octets)))


def parsed(server: ScriptedServer) -> EmailMessage:
    (content,) = server.contents
    found = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    return found


def test_the_dialogue_is_shown(send: Send) -> None:
    with ScriptedServer() as server:
        ended = send(server, "--from", "me@x.org")
    assert ended.code == 0
    (content,) = server.contents
    assert ended.lines == [
        f"= connected to {server.address}",
        "< 220 scripted ESMTP",
        "> EHLO me",
        *(f"< 250{line}" for line in ("-scripted", "-PIPELINING", "-8BITMIME", "-SMTPUTF8", "-DSN", " SIZE 1000000")),
        f"> MAIL FROM:<me@x.org> SIZE={len(content)}",
        "> RCPT TO:<jo@x.org>",
        "> DATA",
        "< 250 2.0.0 ok",
        "< 250 2.0.0 ok",
        "< 354 go on",
        f"> … {len(content) + 3} octets, the final dot among them",
        "< 250 2.0.0 taken",
        "taken for jo@x.org: 250 2.0.0 taken",
        "> QUIT",
        "< 221 2.0.0 bye",
    ]


def test_colours_are_there_when_asked_for(send: Send) -> None:
    with ScriptedServer({"RCPT": b"550 no\r\n"}) as server:
        lines = send(server, "--color", "always").lines
        assert "\x1b[36m> EHLO me\x1b[0m" in lines
        assert "\x1b[32m< 220 scripted ESMTP\x1b[0m" in lines
        assert "\x1b[31m< 550 no\x1b[0m" in lines
        assert "\x1b" not in send(server, "--color", "never").out


def test_the_mail_that_the_options_ask_for(send: Send, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\0")
    (tmp_path / "b.eml").write_bytes(b"Subject: within\n\n8 bit: \xff\n")
    options = [
        "--subject",
        "Grüße",
        "--body",
        "Zeile\n.\nEndé",
        "--header",
        "X-One: 1",
        "--header",
        "Message-ID: <own@x>",
    ]
    attached = ["--attach", str(tmp_path / "a.png"), "--attach", str(tmp_path / "b.eml")]
    with ScriptedServer() as server:
        assert send(server, "--to", "Doe@x.org, roe@x.org", "--from", "me@x.org", *options, *attached).code == 0
    mail = parsed(server)
    assert {name: mail[name] for name in ("From", "To", "Subject", "X-One", "Message-ID")} == {
        "From": "me@x.org",
        "To": "jo@x.org, Doe@x.org, roe@x.org",
        "Subject": "Grüße",
        "X-One": "1",
        "Message-ID": "<own@x>",
    }
    assert mail["Date"].datetime is not None
    body = mail.get_body()
    assert body is not None
    assert body.get_content() == "Zeile\r\n..\r\nEndé\r\n"
    files = {part.get_filename(): (part.get_content_type(), part.get_content()) for part in mail.iter_attachments()}
    assert files == {
        "a.png": ("image/png", b"\x89PNG\r\n\0"),
        "b.eml": ("application/octet-stream", b"Subject: within\n\n8 bit: \xff\n"),
    }
    assert server.contents[0].isascii()


def test_a_field_is_sent_as_it_was_given(send: Send) -> None:
    fields = [
        "Date: yesterday",
        "Reply-To: <",
        "X-Two: a, b <",
        "Message-ID: none",
        "from: jo@y.org",
        "from: doe@y.org",
    ]
    with ScriptedServer() as server:
        assert send(server, *(word for field in fields for word in ("--header", field))).code == 0
    lines = server.contents[0].decode().split("\r\n")
    assert [line for line in lines if line in fields] == fields
    assert not any(line.startswith("From:") for line in lines)


@pytest.mark.parametrize("with_file", [False, True])
def test_what_kind_of_text_it_is(send: Send, tmp_path: Path, with_file: bool) -> None:
    (tmp_path / "a.bin").write_bytes(b"\0")
    attached = ["--attach", str(tmp_path / "a.bin")] if with_file else []
    with ScriptedServer() as server:
        assert send(server, "--header", "Content-Type: text/html", "--body", "<p>Ö</p>", *attached).code == 0
    body = parsed(server).get_body()
    assert body is not None
    assert (body.get_content_type(), body.get_content()) == ("text/html", "<p>Ö</p>\r\n")


@pytest.mark.parametrize(
    ("user", "hello", "path"),
    [
        ("jo", "me.example", "jo@me.example"),
        ("AD\\jo", "[192.0.2.1]", '"AD\\\\jo"@[192.0.2.1]'),
        ("jo", "a..b", "jo@here"),
    ],
)
def test_our_own_address(send: Send, monkeypatch: pytest.MonkeyPatch, user: str, hello: str, path: str) -> None:
    monkeypatch.setenv("LOGNAME", user)
    monkeypatch.setattr(send_plan, "own_hostname", lambda: "here")
    with ScriptedServer() as server:
        assert send(server, "--helo", hello).code == 0
    assert server.commands[0] == f"EHLO {hello}"
    assert server.commands[1].startswith(f"MAIL FROM:<{path}>")


@pytest.mark.parametrize("server", ["::1", "host:port", "host:65536"])
def test_what_is_no_server(send: Send, server: str) -> None:
    ended = send(server)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"elemta: --server {server}: ")


def test_the_null_sender(send: Send) -> None:
    with ScriptedServer() as server:
        assert send(server, "--from", "<>").code == 0
    assert server.commands[1].startswith("MAIL FROM:<> ")


def test_addresses_beyond_ascii(send: Send) -> None:
    with ScriptedServer() as server:
        assert send(server, "--to", "jö@x.org").code == 0
    assert "SMTPUTF8" in server.commands[1]
    assert "To: jo@x.org, jö@x.org\r\n".encode() in server.contents[0]
    with ScriptedServer({"EHLO": b"250 scripted\r\n"}) as server:
        ended = send(server, "--to", "jö@x.org")
    assert ended.code == 1
    assert "refused for jö@x.org: 550 5.6.7" in ended.out
    assert server.contents == []


def test_a_whole_mail_is_left_as_it_is(send: Send, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mail.eml"
    path.write_bytes(b"Subject: s\n\n.x\n")
    with ScriptedServer() as server:
        assert send(server, "--raw", str(path)).code == 0
        give(monkeypatch, b"Subject: s\r\n\r\nx")
        assert send(server, "--raw", "-").code == 0
    assert server.contents == [b"Subject: s\r\n\r\n..x\r\n", b"Subject: s\r\n\r\nx\r\n"]


def test_a_bare_line_feed_is_not_sent(send: Send, tmp_path: Path) -> None:
    path = tmp_path / "mail.eml"
    path.write_bytes(b"Subject: s\r\n\r\nx\n.\r\nMAIL FROM:<>\r\n")
    with ScriptedServer() as server:
        ended = send(server, "--raw", str(path))
    assert ended.code == 1
    assert "refused for jo@x.org: 554 5.6.0 the content holds a bare CR or LF" in ended.out
    assert server.contents in ([], [b""])


def test_eight_bits_for_a_server_that_takes_seven(send: Send, tmp_path: Path) -> None:
    path = tmp_path / "mail.eml"
    head = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
    path.write_text(f"{head}Grüße\n")
    with ScriptedServer({"EHLO": b"250 scripted\r\n"}) as server:
        assert send(server, "--raw", str(path)).code == 0
    assert parsed(server).get_content() == "Grüße\r\n"


# ---- how it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "code", "says"),
    [
        ({"RCPT": b"550 5.1.1 unknown\r\n"}, 1, "refused for jo@x.org: 550 5.1.1 unknown"),
        ({"RCPT": b"451 4.7.1 later\r\n"}, 75, "try again later for jo@x.org: 451 4.7.1 later"),
        ({".": b"552 5.3.4 large\r\n"}, 1, "refused for jo@x.org: 552"),
        ({".": b""}, 75, "try again later for jo@x.org: 451 4.4.2 connection lost"),
        ({"EHLO": b"250-scripted\r\n250 SIZE 10\r\n"}, 1, "the next host takes 10"),
    ],
)
def test_the_outcome_is_the_exit_code(send: Send, answers: dict[str, bytes], code: int, says: str) -> None:
    with ScriptedServer(answers) as server:
        ended = send(server)
    assert ended.code == code
    assert says in ended.out


@pytest.mark.parametrize(
    ("answers", "words", "code", "says"),
    [
        ({"": b"554 5.3.2 no service\r\n"}, [], 1, "no session: 554 5.3.2 no service"),
        ({"": b"421 4.3.2 busy\r\n"}, [], 75, "no session: 421 4.3.2 busy"),
        ({"EHLO": b""}, [], 69, "connection lost"),
        ({}, ["--tls", "require"], 69, "TLS is required, but the host offers no STARTTLS"),
        ({}, ["--tls", "implicit"], 69, "the TLS handshake failed"),
    ],
)
def test_no_session(send: Send, answers: dict[str, bytes], words: list[str], code: int, says: str) -> None:
    with ScriptedServer(answers) as server:
        ended = send(server, *words)
    assert ended.code == code
    assert ended.err.startswith(f"elemta: {server.address}: ")
    assert says in ended.err


def test_no_server(send: Send) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    ended = send(address)
    assert ended.code == 69
    assert ended.lines == [f"= no connection to {address}: Connection refused"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--from", "me"], "--from me: this is no address"),
        (["--to", "a@b@c"], "--to a@b@c"),
        (["--header", "no colon"], '"Name: value"'),
        (["--header", "X: a\nBcc: b@x.org"], '"Name: value"'),
        (["--subject", "a\nBcc: b@x.org"], "no mail can be made"),
        (["--header", "Content-Type: multipart/mixed"], "no mail can be made"),
        (["--header", "Content-Transfer-Encoding: 8bit"], "--raw takes"),
        (["--attach", "/nowhere/at/all"], "/nowhere/at/all: No such file"),
        (["--raw", "/nowhere/at/all"], "No such file"),
        (["--raw", "x", "--body", "y"], "--raw is the whole mail"),
        (["--auth", "plain"], "--user"),
        (["--rate", "fast"], "5/s"),
        (["--helo", "two words"], "--helo"),
        (["--count", "0"], "--count"),
    ],
)
def test_options_that_are_no_use(send: Send, words: list[str], says: str) -> None:
    ended = send("127.0.0.1:1", *words)
    assert ended.code == 2
    assert says in ended.err


# ---- logins --------------------------------------------------------------------------------------

OFFERS = b"250-scripted\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN\r\n"


@pytest.mark.parametrize(
    ("words", "first"),
    [([], "AUTH PLAIN AGpvAGNvcnJlY3QgaG9yc2U="), (["--auth", "login"], "AUTH LOGIN")],
)
def test_a_login_keeps_its_secrets(send: Send, monkeypatch: pytest.MonkeyPatch, words: list[str], first: str) -> None:
    answers = {
        "EHLO": OFFERS,
        "AUTH": b"235 2.7.0 ok\r\n",
        "AUTH LOGIN": b"334 VXNlcm5hbWU6\r\n",
        "am8=": b"334 UGFzc3dvcmQ6\r\n",
        "Y29ycmVjdCBob3JzZQ==": b"235 2.7.0 ok\r\n",
    }
    give(monkeypatch, b"correct horse\nthe body\n")
    with ScriptedServer(answers) as server:
        ended = send(server, "--user", "jo", "--body", "-", *words)
    assert ended.code == 0
    assert server.commands[1] == first
    assert server.contents[0].endswith(b"\r\n\r\nthe body\r\n")
    for secret in ("AGpv", "Y29ycmVjdCBob3JzZQ", "correct horse", "am8="):
        assert secret not in ended.out + ended.err
    assert "<hidden>" in ended.out


def test_a_login_that_is_refused(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, code in ((b"535 5.7.8 wrong\r\n", 77), (b"454 4.7.0 the users are away\r\n", 75)):
        give(monkeypatch, b"password\n")
        with ScriptedServer({"EHLO": OFFERS, "AUTH": answer}) as server:
            ended = send(server, "--user", "jo")
        assert ended.code == code
        assert f"the login was refused: {answer.decode().strip()}" in ended.err
        assert server.commands[-1] == "QUIT"


def test_a_mechanism_that_is_not_offered(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, b"password\n")
    with ScriptedServer({"EHLO": OFFERS}) as server:
        ended = send(server, "--user", "jo", "--auth", "scram-sha-256")
    assert ended.code == 77
    assert "LOGIN PLAIN" in ended.err
    assert not any(line.startswith("AUTH") for line in server.commands)


def test_no_password(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, b"")
    assert send("127.0.0.1:1", "--user", "jo").code == 2


# ---- several mails -------------------------------------------------------------------------------


def test_several_mails_go_over_one_connection(send: Send) -> None:
    with ScriptedServer() as server:
        ended = send(server, "--count", "5", "--rate", "1000/s")
    assert ended.code == 0
    assert [line.partition(" ")[0] for line in server.commands].count("EHLO") == 1
    assert len({email.message_from_bytes(content)["Message-ID"] for content in server.contents}) == 5
    assert ended.lines.count("> DATA") == 1
    assert ended.lines[-2] == "= the same 4 times more, without the dialogue"
    assert ended.lines[-1].startswith("5 mails in ")
    assert ended.lines[-1].endswith("; recipients: 5 taken")


def test_a_server_that_ends_the_session_gets_a_new_one(send: Send) -> None:
    with ScriptedServer(most_mails=2) as server:
        ended = send(server, "--count", "5")
    assert ended.code == 0
    assert len(server.contents) == 5
    assert [line.partition(" ")[0] for line in server.commands].count("EHLO") == 3


def test_a_server_that_goes_away_ends_it(send: Send) -> None:
    with ScriptedServer(most_mails=2, most_connections=1) as server:
        ended = send(server, "--count", "5")
    assert ended.code == 69
    assert len(server.contents) == 2
    assert ended.lines[-1].endswith("recipients: 2 taken")


# ---- for programs, and which server --------------------------------------------------------------


def test_json(send: Send) -> None:
    with ScriptedServer({"RCPT TO:<no@x.org>": b"550 5.1.1 unknown\r\n"}) as server:
        ended = send(server, "--to", "no@x.org", "-o", "json")
    assert ended.code == 1
    assert {key: value for key, value in ended.json.items() if key != "seconds"} == {
        "schema": 1,
        "server": server.address,
        "mails": 1,
        "delivered": 1,
        "deferred": 0,
        "failed": 1,
        "error": "",
        "recipients": [
            {"recipient": "jo@x.org", "result": "delivered", "code": 250, "enhanced": "2.0.0", "text": "taken",
             "address": server.address, "tls": ""},
            {"recipient": "no@x.org", "result": "failed", "code": 550, "enhanced": "5.1.1", "text": "unknown",
             "address": server.address, "tls": ""},
        ],
    }  # fmt: skip
    with ScriptedServer({"": b"554 5.3.2 no\r\n"}) as server:
        ended = send(server, "-o", "jsonl")
    assert (ended.code, ended.json["error"]) == (1, "554 5.3.2 no")


def test_the_configuration_names_the_server(terminal: Terminal) -> None:
    with ScriptedServer() as server:
        terminal.configure(listen_addr=server.address)
        assert terminal.run("send", "--to", "jo@x.org").code == 0
        terminal.configure(
            listeners=[
                {"address": "192.0.2.1:25"},
                {"address": "127.0.0.1:2", "auth": True, "auth_required": True},
                {"address": f":{server.address.rpartition(':')[2]}"},
            ],
            auth={"enabled": True},
        )
        assert terminal.run("send", "--to", "jo@x.org").code == 0
    assert len(server.contents) == 2


def test_without_a_configuration_it_is_dev_modes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with ScriptedServer() as server:
        monkeypatch.setattr(send_module, "DEV_SERVER", server.address)
        from elemta.cli.main import main

        with pytest.raises(SystemExit) as ended:
            main(["send", "--to", "jo@x.org", "-o", "json"])
        assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["server"] == server.address
