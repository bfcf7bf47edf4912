r"""Replays the scripts of `tests/dialogues/`: each one whole, line by line, byte by byte.

A script is one session with the server machine. Its lines, in order:

    # text                 a comment
    option NAME VALUE      a field of `ServerOptions`; before the first `C`
    answer WHAT CODE TEXT  what the driver's policy says instead of yes. WHAT: greeting, data, end, starttls,
                           `mail <address>`, `rcpt <address>`, or auth (several: one for each step)
    C LINE                 the client sends LINE, CRLF after it
    C- TEXT                the client sends TEXT as it is
    C*N LINE               the client sends LINE, CRLF after it, N times
    tls                    the handshake is done
    eof                    the client closes
    S LINE                 one line of what the server sends; `...` at its end stands for any rest; `S*N LINE`;
                           `S (ehlo)` are the lines of the plain answer to EHLO
    E TEXT                 one event, as `server_driver.describe` writes it; `...`, `E*N` as above

In what the client sends, `\r`, `\n`, `\0`, `\xNN` (one octet) and `\\` mean what they mean in Python; non-ASCII text is
UTF-8. All `S` lines together are all that the server sends (the greeting is left out unless the script answers it);
all `E` lines together are all events, if there are any. Where they stand is for the reader: a client that waits would
see them there, and the replay of single groups checks that.

*Whole* gives the machine everything up to the next `tls` at once. Where a client must wait (`option forbid_early_talk
true`, the default being false here), what it sends before it waits is as much as it sends at once.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from attrs import field, fields_dict, mutable

from elemta.mail.reply import Reply
from elemta.smtp.options import DEFAULT_MAX_SIZE_OCTETS, ServerOptions
from tests.smtp.server_driver import Driver, Policy, bytewise, describe, linewise

FOLDER = Path(__file__).resolve().parents[1] / "dialogues"
SCRIPTS = sorted(FOLDER.glob("*.smtp"))
_LINE = re.compile(r"(C-|[CSE])(?:\*([0-9]+))?(?: (.*))?")
_ESCAPE = re.compile(r"\\(?:([rn0\\])|x([0-9a-f]{2}))")
_EXTENSIONS = "8BITMIME SMTPUTF8 CHUNKING ENHANCEDSTATUSCODES DSN MT-PRIORITY"
_ESCAPES = {"r": b"\r", "n": b"\n", "0": b"\0", "\\": b"\\"}


@mutable
class Group:
    """What a client sends at once, what it waits for then, what is done after it."""

    sent: bytes = b""
    replies: list[str] = field(factory=list)
    action: str = ""


@mutable
class Script:
    """One file."""

    options: ServerOptions
    policy: Policy
    groups: list[Group]
    events: list[str]
    shows_greeting: bool

    @property
    def replies(self) -> list[str]:
        return [line for group in self.groups for line in group.replies]


def unescape(text: str) -> bytes:
    out, at = b"", 0
    for match in _ESCAPE.finditer(text):
        out += text[at : match.start()].encode()
        out += _ESCAPES[match[1]] if match[1] else bytes([int(match[2], 16)])
        at = match.end()
    return out + text[at:].encode()


def parse(text: str) -> Script:
    options: dict[str, object] = {"hostname": "mx.example.com", "forbid_early_talk": False}
    policy = Policy()
    shows_greeting = False
    groups = [Group()]
    events: list[str] = []
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if not line.strip() or word == "#":
            continue
        if word == "option":
            name, _, value = rest.partition(" ")
            options[name] = option_value(name, value)
        elif word == "answer":
            add_answer(policy, rest)
            shows_greeting = shows_greeting or rest.startswith("greeting")
        elif word in ("tls", "eof"):
            groups[-1].action = word
            groups.append(Group())
        else:
            add_line(line, groups, events)
    size = options.get("max_size", DEFAULT_MAX_SIZE_OCTETS)
    for group in groups:
        group.replies = [row for line in group.replies for row in (ehlo(size) if line == "(ehlo)" else [line])]
    return Script(ServerOptions(**options), policy, groups, events, shows_greeting)  # type: ignore[arg-type]  # read


def ehlo(size: object) -> list[str]:
    lines = ["mx.example.com", "PIPELINING", f"SIZE {size}", *_EXTENSIONS.split()]
    return [*(f"250-{line}" for line in lines), "250 HELP"]


def add_line(line: str, groups: list[Group], events: list[str]) -> None:
    match = _LINE.fullmatch(line)
    assert match is not None, f"no script: {line!r}"
    kind, times, content = match[1], int(match[2] or 1), match[3] or ""
    if kind == "E":
        events.extend([content] * times)
    elif kind == "S":
        groups[-1].replies.extend([content] * times)
    else:
        if groups[-1].replies:
            groups.append(Group())
        groups[-1].sent += (unescape(content) + (b"" if kind == "C-" else b"\r\n")) * times


def option_value(name: str, value: str) -> object:
    kind = fields_dict(ServerOptions)[name].type
    if kind is bool:
        return {"true": True, "false": False}[value]
    if kind is int:
        return int(value)
    return tuple(value.split()) if name == "auth_mechanisms" else value


def add_answer(policy: Policy, text: str) -> None:
    match = re.fullmatch(r"(\w+)(?: <(.*?)>)? ([0-9]{3})(?: ([245]\.[0-9]+\.[0-9]+))?(?: (.*))?", text)
    assert match is not None, f"no answer: {text!r}"
    what, address, code, enhanced, words = match.groups()
    reply = Reply(int(code), enhanced or "", words or "")
    if what in ("mail", "rcpt"):
        getattr(policy, what)[address] = reply
    elif what == "auth":
        policy.auth.append(reply)
    else:
        setattr(policy, what, reply)


# ---- replay --------------------------------------------------------------------------------------


def whole(script: Script) -> list[Group]:
    """As few groups as may be: a group ends with an action, or where the client must wait."""
    if script.options.forbid_early_talk:
        return script.groups
    joined = [Group()]
    for group in script.groups:
        joined[-1].sent += group.sent
        joined[-1].replies += group.replies
        if group.action:
            joined[-1].action = group.action
            joined.append(Group())
    return joined


def in_groups(script: Script) -> list[Group]:
    return script.groups


def replay(script: Script, groups: list[Group], cut: Callable[[bytes], Iterable[bytes]]) -> tuple[list[str], list[str]]:
    """Returns the lines that were sent and the events."""
    driver = Driver(script.options, script.policy)
    lines = driver.sent.decode().splitlines() if script.shows_greeting else []
    wanted: list[str] = []
    for group in groups:
        # Cut to pieces, what comes too early would come in time.
        pieces = once(group.sent) if script.options.forbid_early_talk else cut(group.sent)
        lines += driver.feed_all(pieces).decode().splitlines()
        wanted += group.replies
        if group.action != "eof":
            assert_alike(lines, wanted)
        if group.action == "tls":
            driver.connection.tls_started()
        elif group.action == "eof":
            lines += driver.feed(b"").decode().splitlines()
    return lines, [describe(event) for event in driver.events]


def assert_alike(got: list[str], wanted: list[str]) -> None:
    for line, pattern in zip(got, wanted, strict=False):
        assert line.startswith(pattern[:-3]) if pattern.endswith("...") else line == pattern
    assert len(got) == len(wanted), (got[len(wanted) :], wanted[len(got) :])


def once(data: bytes) -> list[bytes]:
    return [data] if data else []


@pytest.mark.parametrize("cut", [once, linewise, bytewise])
@pytest.mark.parametrize("grouping", [whole, in_groups])
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_dialogue(
    path: Path, grouping: Callable[[Script], list[Group]], cut: Callable[[bytes], Iterable[bytes]]
) -> None:
    script = parse(path.read_text(encoding="utf-8"))
    lines, events = replay(script, grouping(script), cut)
    assert_alike(lines, script.replies)
    if script.events:
        assert_alike(events, script.events)


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 40
