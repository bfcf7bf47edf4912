"""Promises 5, 10, 24, 26, 30 with plugins: whole servers, hostile plugins, filters that hang, fuzzed sessions."""

import json
import re
import smtplib
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from elemta.runtime.garbage import YOUNG_OBJECTS
from elemta.testing.process import ServerProcess
from tests.peers.test_bad_configuration import refused, with_keys
from tests.peers.test_hostile import discarding
from tests.peers.test_logs import session
from tests.peers.wire import Door, Wire, free_port, wait_until

IMPORTS = """\
import trio
from elemta.mail.address import Address
from elemta.mail.envelope import Recipient
from elemta.plugins.api import *
"""


def plugin(folder: Path, name: str, body: str, **entry: object) -> dict[str, object]:
    """Write a plugin of one class; its entry in the configuration."""
    plugins = folder / "plugins"
    plugins.mkdir(exist_ok=True, mode=0o755)
    path = plugins / f"{name}.py"
    path.write_text(f"{IMPORTS}\n\nclass Own(Plugin):\n{body}")
    path.chmod(0o644)
    return {"name": name, **entry}


def asking(*entries: dict[str, object], **keys: object) -> dict[str, object]:
    return discarding(plugins={"plugins": list(entries)}, **keys)


# ---- promise 24 ----------------------------------------------------------------------------------

#: Puts what clients say wherever a plugin may put words, and fails at every fourth mail.
ECHO = """\
    mails = 0

    async def on_helo(self, session):
        return Reject(session.helo) if len(session.helo) > 100 else CONTINUE

    async def on_mail_from(self, mail):
        return Continue([Annotate("sender", repr(mail.sender))])

    async def on_rcpt_to(self, mail, recipient):
        return Defer(f"not {recipient}") if '"' in str(recipient.address) else CONTINUE

    async def on_data_complete(self, mail):
        octets = b"".join([piece async for piece in mail.content.chunks()])
        text = octets[mail.content.header_octets :].decode("utf-8", "surrogateescape")
        self.mails += 1
        self.host.log.debug("echo", text=text)
        match self.mails % 4:
            case 0:
                raise PluginFailed(f"\\x1b[2J{text}\\n{octets!r}")
            case 1:
                return Reject(text)
            case 2:
                return Quarantine(text, [Annotate("text", text)])
        return Continue([Annotate("text", text), AddHeader("X-Echo", text.encode("ascii", "replace").hex()[:300])])
"""


def test_fuzzed_sessions_leave_a_line_each_with_plugins(tmp_path: Path) -> None:
    check_fuzzed_sessions_with_plugins(tmp_path, sessions=500)


def check_fuzzed_sessions_with_plugins(tmp_path: Path, *, sessions: int) -> None:
    for part in ("new", "cur", "tmp"):
        (tmp_path / "mail" / "r" / part).mkdir(parents=True)
    protection: list[dict[str, object]] = [
        {"name": "greylisting", "settings": {"whitelist_ips": [], "delay": "1ms"}},
        {"name": "tarpit", "settings": {"whitelist_ips": [], "max_delay": 0.1}},
    ]
    config = asking(
        plugin(tmp_path, "echo", ECHO),
        *protection,
        local_domains=["example.net"],
        routes=[
            {"domain": "example.net", "transport": "maildir", "path": str(tmp_path / "mail/{local}")},
            {"domain": "*", "transport": "discard"},
        ],
        limits={"max_connections_per_address": 500},
        # Who is not relayed for meets all of protection, and has soon had enough; the others get further.
        listeners=[{"address": "127.0.0.1:0", "relay": False}, {"address": "127.0.0.1:0"}],
        rate_limiter={
            "enabled": True,
            "whitelist_ips": [],
            "connection_rate_per_minute": sessions,
            "connection_burst_size": sessions,
            "max_messages_per_minute": sessions // 2,
            "max_messages_per_hour": sessions,
            "per_network": {"connections_per_minute": sessions, "messages_per_minute": sessions},
        },
    )
    with ServerProcess(tmp_path, config) as server:
        began = time.monotonic()
        ports = [int(listener["port"]) for listener in server.ready["listeners"]]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda seed: session(ports[seed % 2], seed, Door.PLAIN), range(sessions)))
        seconds = time.monotonic() - began
        wait_until(lambda: server.log.count('"session.ended"') >= sessions, "every session is logged")
        text = (tmp_path / "elemta.log").read_bytes().decode("utf-8")
    lines = text.split("\n")[:-1]
    assert "Traceback" not in text
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for line in lines for char in line)
    assert not any(char in text for char in "\u2028\u2029\u202e")
    events = [json.loads(line) for line in lines]
    kinds = Counter(event["event"] for event in events)
    print(seconds, kinds)  # noqa: T201  # -s shows it
    assert kinds["session.ended"] == sessions
    assert kinds["mail.accepted"] > sessions / 20, "too few sessions got as far as a mail"
    # Told now and then, whoever provokes them.
    assert 1 <= kinds.pop("plugin.failed") <= seconds / 10 + 2
    about_mails = {"mail.accepted", "delivery.outcome", "queue.report"}
    assert set(kinds) - about_mails <= {"queue.joined", "plugins.ready", "server.ready", "session.ended"}, kinds


# ---- the collector of garbage --------------------------------------------------------------------


def test_what_is_there_at_the_start_is_left_alone_by_the_collector(tmp_path: Path) -> None:
    body = """\
    async def on_connect(self, session):
        import gc
        self.host.log.info("collector", frozen=gc.get_freeze_count(), threshold=gc.get_threshold()[0])
        return CONTINUE
"""
    with ServerProcess(tmp_path, asking(plugin(tmp_path, "looking", body))) as server:
        with Wire(server.port) as wire:
            wire.greeting()
        wait_until(lambda: "collector" in {event["event"] for event in server.events}, "the plugin has looked")
        (told,) = [event for event in server.events if event["event"] == "collector"]
    assert told["frozen"] > 10_000
    assert told["threshold"] == YOUNG_OBJECTS


# ---- promise 10 ----------------------------------------------------------------------------------

#: Rewrites body and header, in ways that are not clean among them; those are the plugin's failures.
CHANGING = """\
    async def on_data_complete(self, mail):
        octets = b"".join([piece async for piece in mail.content.chunks(mail.content.header_octets + 2)])
        number = int(mail.headers.text("X-Number"))
        bodies = (
            octets, octets.replace(b"\\r\\n", b"\\r\\n.\\r\\n"), b".", b"..\\r\\n.\\r\\n", octets.replace(b"\\r", b""),
            b"x" * 2000, b"a\\rb\\r\\n", b"\\n.\\n", b"gr\\xfcn\\r\\n", octets + b"no end", b"\\0\\r\\n",
            bytearray(b".\\r\\n"),
        )
        fields = (
            b"plain", b"a\\r\\n folded", b"a\\r\\nBcc: x@example.com", b"a\\n", b"\\xff", b"x" * 990,
            b"a\\r\\n\\r\\nbody", b"",
        )
        return Continue([
            ReplaceBody(bodies[number % len(bodies)]),
            AddHeader("X-Own", fields[number // len(bodies) % len(fields)]),
            SetSender(Address("o>\\r\\nRCPT TO:<evil", "example.org") if number % 17 == 0 else mail.sender),
        ])
"""
#: A CR or LF alone.
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class RawSink:
    """Takes mails one octet string each, exactly as they came, and believes nothing: whatever it hears is kept."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    @contextmanager
    def serving(self) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0), backlog=100) as listener, ThreadPoolExecutor(16) as pool:
            pool.submit(self._accept, listener, pool)
            yield listener.getsockname()[1]
            listener.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket, pool: ThreadPoolExecutor) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            pool.submit(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            connection.sendall(b"220 sink\r\n")
            in_content, raw = False, b""
            while line := lines.readline():
                raw += line
                if in_content:
                    if line != b".\r\n":
                        continue
                    in_content, reply = False, b"250 ok"
                    self.heard.append(raw)
                    raw = b""
                elif line.upper().startswith(b"DATA"):
                    in_content, reply = True, b"354 go on"
                elif line.upper().startswith(b"EHLO"):
                    reply = b"250-sink\r\n250 8BITMIME"
                else:
                    reply = b"221 bye" if line.upper().startswith(b"QUIT") else b"250 ok"
                connection.sendall(reply + b"\r\n")


def test_what_plugins_change_goes_out_clean(tmp_path: Path) -> None:
    mails, sink = 200, RawSink()
    with sink.serving() as port:
        config = asking(
            plugin(tmp_path, "changing", CHANGING, on_error="accept"),
            routes=[{"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": port}],
        )
        with ServerProcess(tmp_path, config) as server:
            with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
                for number in range(mails):
                    client.sendmail(
                        "s@example.org", ["r@example.net"], f"X-Number: {number}\r\n\r\n.hello\r\n..\r\n.\r\nend\r\n"
                    )
            wait_until(lambda: len(sink.heard) >= mails, "every mail has left")
            assert server.stop() == 0
    assert len(sink.heard) == mails
    for raw in sink.heard:
        assert not BARE.search(raw)
        commands, _, content = raw.partition(b"DATA\r\n")
        assert not any(b"<evil" in line or line.lower().startswith(b"bcc:") for line in raw.split(b"\r\n"))
        assert commands.count(b"RCPT TO:<r@example.net>") == 1
        lines = content.split(b"\r\n")
        assert max(map(len, lines)) <= 1000  # 998, and what doubles a dot
        assert lines[-2:] == [b".", b""]
        assert b"." not in lines[:-2], "an end within"
        header, _, _ = content.partition(b"\r\n\r\n")
        assert header.count(b"\r\nX-Own:") <= 1


# ---- promise 26 ----------------------------------------------------------------------------------


@contextmanager
def silent_service() -> Iterator[int]:
    """Takes connections, and everything that is said, and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield listener.getsockname()[1]


POLICIES = {"accept": 250, "defer": 451, "reject": 550}
#: Seconds that each filter has.
FILTER_SECONDS = 1.0
#: How long a mail may take in the end: the chain gives scanners two seconds more, and the machine may be busy.
ANSWERED_SECONDS = 8.0


def filtered(kind: str, port: int, policy: str) -> dict[str, object]:
    address = f"127.0.0.1:{port}"
    if kind == "milter":
        settings = {"address": address, "connect_timeout": FILTER_SECONDS, "command_timeout": FILTER_SECONDS}
        return asking({"name": "milter", "on_error": policy, "settings": settings})
    own = {"enabled": True, "timeout": FILTER_SECONDS}
    if kind == "clamav":
        return discarding(antivirus={"enabled": True, "on_failure": policy, "clamav": {**own, "address": address}})
    where = f"http://{address}" if kind == "rspamd" else address
    return discarding(antispam={"enabled": True, "on_failure": policy, kind: {**own, "address": where}})


@pytest.mark.parametrize("kind", ["milter", "rspamd", "spamassassin", "clamav"])
@pytest.mark.parametrize("policy", list(POLICIES))
def test_filters_that_hang_or_are_away_mean_the_policy(kind: str, policy: str, tmp_path: Path) -> None:
    with silent_service() as port:
        check_policy(tmp_path / "hanging", filtered(kind, port, policy), policy)
    check_policy(tmp_path / "away", filtered(kind, free_port(), policy), policy)


def check_policy(folder: Path, config: dict[str, object], policy: str) -> None:
    folder.mkdir()
    with ServerProcess(folder, config) as server:
        began = time.monotonic()
        with Wire(server.port) as wire:
            said = [wire.reply()]
            for line in (b"EHLO c.example\r\n", b"MAIL FROM:<s@example.org>\r\n", b"RCPT TO:<r@example.net>\r\n"):
                if said[-1][:1] == b"2":
                    said.append(wire.ask(line))
            if said[-1][:1] == b"2":
                said += [wire.ask(b"DATA\r\n"), wire.ask(b"Subject: x\r\n\r\nbody\r\n.\r\n")]
        assert time.monotonic() - began <= ANSWERED_SECONDS
        codes = {POLICIES[policy], 554 if policy == "reject" else 421 if policy == "defer" else 250}
        assert int(said[-1][:3]) in codes, said
        assert "Traceback" not in server.log
        assert server.stop() == 0


# ---- promises 5 and 25 ---------------------------------------------------------------------------

HANGING = """\
    async def hang(self, *_):
        await trio.sleep_forever()

    on_{stage} = hang
"""
SHUTDOWN_SECONDS = 2.0


@pytest.mark.parametrize("stage", ["connect", "helo", "mail_from", "rcpt_to", "data_complete", "queued", "disconnect"])
def test_a_drain_ends_whatever_plugins_wait_for(stage: str, tmp_path: Path) -> None:
    check_drain(tmp_path, HANGING.format(stage=stage), stage)


def check_drain(folder: Path, body: str, stage: str) -> None:
    config = asking(plugin(folder, "hanging", body, deadline="10m"), timeouts={"shutdown_timeout": SHUTDOWN_SECONDS})
    lines = [b"EHLO c.example\r\n", b"MAIL FROM:<s@example.org>\r\n", b"RCPT TO:<r@example.net>\r\n", b"DATA\r\n"]
    with ServerProcess(folder, config) as server, ExitStack() as open_ones:
        wires = [open_ones.enter_context(Wire(server.port)) for _ in range(10)]
        reached = {"connect": -1, "helo": 0, "mail_from": 1, "rcpt_to": 2}.get(stage, 4)
        for wire in wires:
            if reached >= 0:
                wire.reply()
            for line in lines[: max(reached, 0)]:
                assert wire.ask(line)[:1] in (b"2", b"3")
            if 0 <= reached < 4:
                wire.send(lines[reached])
            elif reached == 4:
                wire.send(b"Subject: x\r\n\r\nbody\r\n.\r\n")
                if stage in ("queued", "disconnect"):
                    assert wire.reply()[:3] == b"250"
            if stage == "disconnect":
                assert wire.ask(b"QUIT\r\n")[:3] == b"221"
        began = time.monotonic()
        server.terminate()
        assert server.wait(30) == 0
        # Each of the last words may take its own seconds: `FAREWELL_SECONDS`, `GOODBYE_SECONDS`, the plugins' stop.
        assert time.monotonic() - began <= SHUTDOWN_SECONDS + 6
        assert "Traceback" not in server.log


# ---- promise 30 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "body", "says"),
    [
        ({"name": "mlter"}, None, ["plugins.plugins[0]", "mlter", "Did you mean"]),
        ({"name": "milter"}, None, ["plugins.plugins[0]", "settings.address"]),
        ({"name": "milter", "settings": {"adress": "x:1"}}, None, ["plugins.plugins[0]", "adress", "address"]),
        ({"name": "own", "priority": "high"}, "    pass\n", ["plugins.plugins[0]", "priority"]),
        ({"name": "own", "deadline": -1}, "    pass\n", ["plugins.plugins[0]", "deadline"]),
        ({"name": "own", "on_error": "ignore"}, "    pass\n", ["plugins.plugins[0]", "on_error"]),
        ({"name": "own"}, "    def on_helo(self, session): ...\n", ["own", "on_helo"]),
        ({"name": "own"}, "    raise SystemExit(0)\n", ["plugins.plugins[0]", "own", "SystemExit"]),
        ({"name": "own"}, "    async def start(self):\n        raise OSError('no socket')\n", ["own", "no socket"]),
    ],
)
def test_a_plugin_that_cannot_be_refuses_to_start(
    entry: dict[str, object], body: str | None, says: list[str], tmp_path: Path
) -> None:
    if body is not None:
        plugin(tmp_path, "own", body)
    said = refused(tmp_path, with_keys(plugins={"plugins": [entry]}))
    assert all(word in said for word in says), said
