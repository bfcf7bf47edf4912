"""The sendmail program against servers that take the mail, refuse it, or vanish: exit codes and words."""

import io
import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from elemta.cli import sendmail_program
from elemta.cli.main import main
from elemta.cli.sendmail_program import run
from elemta.cli.sendmail_trouble import SysExit
from elemta.config.load import load_config
from tests.cli.send_server import ScriptedServer

MAIL = b"To: jo@x.org\nSubject: s\n\n.hello\n"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine's own configuration is no part of the tests."""
    monkeypatch.setattr(sendmail_program, "SYSTEM_CONFIG", tmp_path / "none.conf")


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, MAIL)


def give(monkeypatch: pytest.MonkeyPatch, octets: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(octets)))


def send(server: ScriptedServer | str, *words: str) -> SysExit:
    address = server if isinstance(server, str) else server.address
    return run(words or ["-t", "-i"], environ={"ELEMTA_SENDMAIL_SERVER": address})


@pytest.mark.usefixtures("stdin")
def test_a_mail_is_taken(capfd: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer() as server:
        assert send(server, "-t", "-i", "-f", "me@x.org", "doe@x.org") is SysExit.OK
    envelope = [line.partition(" SIZE")[0] for line in server.commands[1:]]
    assert envelope == ["MAIL FROM:<me@x.org>", "RCPT TO:<doe@x.org>", "RCPT TO:<jo@x.org>", "DATA", "QUIT"]
    (content,) = server.contents
    assert content.startswith(b"To: jo@x.org\r\nSubject: s\r\nFrom: me@x.org\r\nDate: ")
    assert content.endswith(b"\r\n\r\n..hello\r\n")
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("stdin")
@pytest.mark.parametrize(
    ("answers", "status", "says"),
    [
        ({"RCPT": b"550 5.1.1 no such mailbox\r\n"}, SysExit.NOUSER, "jo@x.org: 550 5.1.1 no such mailbox"),
        ({"RCPT": b"550 5.7.1 relaying denied\r\n"}, SysExit.UNAVAILABLE, "relaying denied"),
        ({"MAIL": b"550 5.7.1 not you\r\n"}, SysExit.UNAVAILABLE, "not you"),
        ({".": b"554 5.6.0 spam\r\n"}, SysExit.UNAVAILABLE, "554 5.6.0 spam"),
        ({"RCPT": b"451 4.7.1 greylisted\r\n"}, SysExit.TEMPFAIL, "greylisted"),
        ({"DATA": b"452 4.3.1 full\r\n"}, SysExit.TEMPFAIL, "full"),
        ({".": b""}, SysExit.TEMPFAIL, "may be there all the same"),
        ({"DATA": b""}, SysExit.TEMPFAIL, "lost"),
        ({"": b"554 5.3.2 go away\r\n"}, SysExit.TEMPFAIL, "does not serve us: 554 5.3.2 go away"),
        ({"": b"nonsense\r\n"}, SysExit.TEMPFAIL, "no reply line"),
        ({"EHLO": b"250-scripted\r\n250 SIZE 20\r\n"}, SysExit.UNAVAILABLE, "the next host takes 20"),
        ({"RCPT": b"550 5.1.1 \x1b[31mred\r\n"}, SysExit.NOUSER, "\\x1b[31mred"),
    ],
)
def test_how_it_ends(answers: dict[str, bytes], status: SysExit, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer(answers) as server:
        assert send(server) is status
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("sendmail: ")
    assert says in err


@pytest.mark.usefixtures("stdin")
def test_who_has_the_mail_is_told_apart_from_who_has_not(capfd: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer({"RCPT TO:<no@x.org>": b"550 5.1.1 unknown\r\n"}) as server:
        assert send(server, "-i", "no@x.org", "jo@x.org", "doe@x.org") is SysExit.NOUSER
    assert len(server.contents) == 1
    assert capfd.readouterr().err == "sendmail: no@x.org: 550 5.1.1 unknown\nsendmail: the mail went to the other 2\n"


@pytest.mark.usefixtures("stdin")
def test_many_recipients_go_in_several_transactions() -> None:
    with ScriptedServer() as server:
        assert send(server, "-i", *(f"a{number}@x.org" for number in range(250))) is SysExit.OK
    assert len(server.contents) == 3
    assert sum(line.startswith("RCPT") for line in server.commands) == 250


@pytest.mark.usefixtures("stdin")
def test_a_lost_session_settles_the_transactions_that_were_left(capfd: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer({"RCPT TO:<a150@x.org>": b"421 4.3.2 shutting down\r\n"}) as server:
        assert send(server, "-i", *(f"a{number}@x.org" for number in range(250))) is SysExit.TEMPFAIL
    assert len(server.contents) == 1
    named = ", ".join(f"a{number}@x.org" for number in range(100, 105))
    assert capfd.readouterr().err.splitlines() == [
        f"sendmail: {named} and 95 more: 421 4.3.2 shutting down",
        f"sendmail: {named.replace('a1', 'a2')} and 45 more: 451 4.4.2 the connection was lost",
        "sendmail: the mail went to the other 100",
    ]


def test_no_server(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    give(monkeypatch, MAIL)
    assert send(address) is SysExit.TEMPFAIL
    assert f"no server answers at {address}" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "octets", "status"),
    [
        (["-z"], MAIL, SysExit.USAGE),
        (["-bd"], MAIL, SysExit.USAGE),
        ([], MAIL, SysExit.USAGE),
        (["-t"], b"To: a@b@c\n\nx\n", SysExit.DATAERR),
        (["-q"], b"", SysExit.OK),
        (["-bi"], b"", SysExit.OK),
    ],
)
def test_what_needs_no_server(
    words: list[str], octets: bytes, status: SysExit, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, octets)
    assert run(words, environ={"ELEMTA_SENDMAIL_SERVER": "192.0.2.1:1"}) is status


def test_standard_input_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sendmail_program, "MAX_INPUT_OCTETS", 1000)
    with ScriptedServer() as server:
        give(monkeypatch, MAIL + b"x" * (1000 - len(MAIL)))
        assert send(server) is SysExit.OK
        give(monkeypatch, MAIL + b"x" * (1001 - len(MAIL)))
        assert send(server) is SysExit.DATAERR
    assert len(server.contents) == 1


def test_a_unix_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (False, True):
        give(monkeypatch, MAIL)
        path = tmp_path / "smtp"
        with ScriptedServer(path=path if there else None):
            assert send(f"unix:{path}") is (SysExit.OK if there else SysExit.TEMPFAIL)


@pytest.mark.usefixtures("stdin")
def test_verbose_shows_the_dialogue(capfd: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer() as server:
        assert send(server, "-v", "-t") is SysExit.OK
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "< 220 scripted ESMTP"
    assert "> RCPT TO:<jo@x.org>" in lines
    assert lines[-1] == "< 221 2.0.0 bye"


# ---- which server --------------------------------------------------------------------------------


def configure(folder: Path, **keys: object) -> Path:
    path = folder / "elemta.conf"
    path.write_text(json.dumps({"hostname": "mail.example.com", "queue_dir": str(folder), **keys}))
    return path


@pytest.mark.usefixtures("stdin")
@pytest.mark.parametrize("way", ["-C", "ELEMTA_CONFIG", "ELEMTA_CONFIG_PATH", "system"])
def test_the_configuration_names_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    with ScriptedServer() as server:
        port = server.address.rpartition(":")[2]
        path = configure(tmp_path, listen_addr=f":{port}")
        environ = {way: str(path)} if way.startswith("ELEMTA") else {}
        if way == "system":
            monkeypatch.setattr(sendmail_program, "SYSTEM_CONFIG", path)
        assert run(["-C", str(path), "-t"] if way == "-C" else ["-t"], environ=environ) is SysExit.OK
    assert server.commands[0] == "EHLO mail.example.com"


@pytest.mark.usefixtures("stdin")
def test_the_folder_it_is_started_in_has_no_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sendmail_program, "_DEFAULT_SERVER", "127.0.0.1:1")
    monkeypatch.chdir(tmp_path)
    with ScriptedServer() as server:
        configure(tmp_path, listen_addr=server.address)
        assert run(["-t"], environ={}) is SysExit.TEMPFAIL
    assert server.commands == []


@pytest.mark.usefixtures("stdin")
@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"listen_adr": ":25"}, "listen_addr"),
        ({"listen_addr": "127.0.0.1:25", "auth": {"enabled": True, "required": True}}, "ELEMTA_SENDMAIL_SERVER"),
    ],
)
def test_a_configuration_that_is_of_no_use(
    tmp_path: Path, keys: dict[str, object], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["-C", str(configure(tmp_path, **keys)), "-t"], environ={}) is SysExit.CONFIG
    assert says in capfd.readouterr().err


@pytest.mark.usefixtures("stdin")
def test_a_server_that_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    assert send("mail.example.com") is SysExit.CONFIG
    assert "host:port" in capfd.readouterr().err


# ---- the processes -------------------------------------------------------------------------------


def program(*words: str) -> list[str]:
    return [sys.executable, "-c", "from elemta.cli.sendmail_program import main; main()", *words]


def test_smtp_on_standard_input_and_output() -> None:
    said = b"EHLO me\r\nMAIL FROM:<a@x.org>\r\nRCPT TO:<b@x.org>\r\nDATA\r\n"
    with ScriptedServer() as server:
        environ = {**os.environ, "ELEMTA_SENDMAIL_SERVER": server.address}
        ended = subprocess.run(
            program("-bs"),
            input=said + b"Subject: s\r\n\r\nx\r\n.\r\nQUIT\r\n",
            capture_output=True,
            env=environ,
            timeout=60,
        )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.startswith(b"220 scripted ESMTP\r\n250-scripted\r\n")
    assert ended.stdout.endswith(b"354 go on\r\n250 2.0.0 taken\r\n221 2.0.0 bye\r\n")
    assert server.contents == [b"Subject: s\r\n\r\nx\r\n"]


def test_a_caller_that_speaks_smtp_to_a_server_that_hangs_up() -> None:
    with ScriptedServer({"EHLO": b""}) as server:
        environ = {**os.environ, "ELEMTA_SENDMAIL_SERVER": server.address}
        ended = subprocess.run(program("-bs"), input=b"EHLO me\r\n", capture_output=True, env=environ, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, b"220 scripted ESMTP\r\n")


@pytest.mark.parametrize(
    ("words", "code"),
    [(["-v", "jo@x.org"], 0), (["-v", "no@x.org"], 67), (["-z"], 64)],
    ids=["sent", "refused", "usage"],
)
def test_nobody_reads_what_it_says(words: list[str], code: int) -> None:
    unread, closed = os.pipe()
    os.close(unread)
    with ScriptedServer({"RCPT TO:<no@x.org>": b"550 5.1.1 unknown\r\n"}) as server:
        environ = {**os.environ, "ELEMTA_SENDMAIL_SERVER": server.address}
        ended = subprocess.run(program(*words), input=MAIL, stderr=closed, env=environ, timeout=60)
    os.close(closed)
    assert ended.returncode == code
    assert any(server.contents) == (code == 0)


@pytest.mark.parametrize("word", ["jo@x.org", "-bs"])
def test_no_standard_input(word: str) -> None:
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *program(word)], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (66, "")
    assert ended.stderr == "sendmail: standard input is closed: there is no mail to read\n"


def test_the_command_is_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer() as server:
        path = configure(tmp_path, listen_addr=server.address)
        # None of these letters may be taken for an option of the command line: -c, -v, -h.
        for words in (
            ["sendmail", "-C", str(path), "-t", "-fvcho@x.org"],
            ["-c", str(path), "sendmail", "-t", "-fvcho@x.org"],
        ):
            give(monkeypatch, MAIL)
            with pytest.raises(SystemExit) as ended:
                main(words)
            assert ended.value.code == 0
    assert sum(line.startswith("MAIL FROM:<vcho@x.org>") for line in server.commands) == 2


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [("newaliases", 0, ""), ("mailq", 0, "ID  STATE"), ("sendmail", 64, "there is no recipient")],
)
def test_it_goes_by_other_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str, code: int, says: str
) -> None:
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{name}", "-C", str(configure(tmp_path))])
    give(monkeypatch, b"")
    with pytest.raises(SystemExit) as ended:
        sendmail_program.main()
    assert ended.value.code == code
    out, err = capfd.readouterr()
    assert says in out + err
    assert says or not out + err


def test_help_is_to_be_had(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sendmail", "--help"])
    assert ended.value.code == 0
    assert "-f SENDER" in capfd.readouterr().out


def test_it_costs_less_than_300_milliseconds() -> None:
    """Of a processor, a mail sent included, beside the bare interpreter; the best of several. Measured: 104."""
    with ScriptedServer() as server:
        environ = {**os.environ, "ELEMTA_SENDMAIL_SERVER": server.address}

        def seconds(command: list[str]) -> float:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, input=MAIL, check=True, env=environ, timeout=60)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        bare = min(seconds([sys.executable, "-c", ""]) for _ in range(5))
        assert min(seconds(program("-t")) for _ in range(5)) - bare <= 0.300


def test_it_imports_no_event_loop_and_no_command_line() -> None:
    script = (
        "import sys\nfrom elemta.cli.sendmail_program import run\n"
        "assert run(['-t']) == 0\n"
        "print(*sorted({'trio', 'click', 'cattrs', 'ssl', 'structlog', 'elemta.config.sections'} & set(sys.modules)))"
    )
    with ScriptedServer() as server:
        environ = {**os.environ, "ELEMTA_SENDMAIL_SERVER": server.address}
        ended = subprocess.run(
            [sys.executable, "-c", script], input=MAIL, capture_output=True, check=True, env=environ, timeout=60
        )
    assert ended.stdout.strip() == b""


def test_the_servers_name_is_no_key_of_the_configuration(tmp_path: Path) -> None:
    loaded = load_config(str(configure(tmp_path)), {"ELEMTA_SENDMAIL_SERVER": "127.0.0.1:25"}, cwd=tmp_path)
    assert loaded.config.hostname == "mail.example.com"
