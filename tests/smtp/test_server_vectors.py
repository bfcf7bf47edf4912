"""Published dialogues and fuzz seeds, given to the server machine.

The dialogues are chasquid's scripts (`c -> LINE` sends, `c <~ REGEX`, `c <- LINE` read one line, `c <... TEXT` reads up
to it, `c ~> EXPRESSION` sends what Python makes of it). Codes are compared, enhanced ones too; the words behind them
are each server's own. Where we answer otherwise on purpose, `DIFFERENT` says what and why.
"""

import ast
import base64
import re
from itertools import pairwise
from pathlib import Path

import pytest

from elemta.mail.reply import Reply
from elemta.smtp.events import AuthResponse, AuthStart, Content
from elemta.smtp.options import ServerOptions
from tests.smtp.server_driver import AUTHENTICATED, Driver, bytewise, linewise

OPTIONS = ServerOptions(
    hostname="testserver",
    max_size=1024 * 1024,
    max_errors=2,
    starttls=True,
    auth_mechanisms=("PLAIN",),
)
USER = b"user@testserver"
PASSWORD = b"secretpassword"

#: (dialogue, what it expects) → what we answer, why.
DIFFERENT = {
    ("auth_multi_dialog", "534"): (
        "504 5.5.4",
        "RFC 4954 §4: 504 for a mechanism that is not offered; 534 means too weak",
    ),
    ("auth_not_tls", "503 5.7.10"): ("504 5.5.4", "RFC 4954 §4: 504 where encryption is required"),
    ("auth_too_many_failures", "421 4.5.0"): ("421 4.7.0", "RFC 3463 §3.8: a matter of policy, not of the protocol"),
    ("bad_data", "554 5.6.0"): (
        "250 2.6.0",
        "the header is relayed as it is, RFC 5321 §6.4 and §3.7.1; not parsed here",
    ),
    ("bad_rcpt_to", "550 5.1.3"): (
        "553 5.6.7",
        "RFC 6531 §3.5: the address needs SMTPUTF8, and the code should say so",
    ),
    ("line_too_long", "554"): ("501 5.5.4", "RFC 5321 §4.5.3.1.2: the line is short enough for us, its domain is not"),
}
_STEP = re.compile(r"c (tcp_connect|tls_connect|close|->|~>|<~|<-|<\.\.\.) ?(.*)")
_CODES = re.compile(r"[0-9]{3}(?: [245]\.[0-9]+\.[0-9]+)?")


class ChasquidDriver(Driver):
    """Knows the one user of those dialogues."""

    def _authenticate(self, event: AuthStart | AuthResponse) -> Reply:
        given = event.initial if isinstance(event, AuthStart) else event.response
        if given is None:
            return Reply(334)
        if given.split(b"\0") == [USER, USER, PASSWORD]:
            self.connection.set_authenticated(USER.decode())
            return AUTHENTICATED
        return Reply(535, "5.7.8", "Incorrect user or password")


class Dialogue:
    """One script, step by step."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.driver = ChasquidDriver(OPTIONS)
        self.lines: list[str] = []
        self.differences: set[tuple[str, str]] = set()

    def connect(self, *, tls: bool) -> None:
        self.driver = ChasquidDriver(OPTIONS, greet=False)
        if tls:
            self.driver.connection.tls_started()
        self.driver.connection.greet(self.driver.policy.greeting)
        self.lines = self.driver.drain().decode().splitlines()

    def step(self, verb: str, argument: str) -> None:
        match verb:
            case "tcp_connect" | "tls_connect":
                self.connect(tls=verb == "tls_connect")
            case "->":
                self.send(argument.encode() + b"\r\n")
            case "~>":
                self.send(eval(argument).encode())  # the published script's own expression
            case "<...":
                while self.lines.pop(0) != argument:
                    pass
            case "<~" | "<-":
                self.expect(argument)

    def send(self, data: bytes) -> None:
        self.lines += self.driver.feed(data).decode().splitlines()

    def expect(self, pattern: str) -> None:
        wanted = _CODES.match(pattern)
        assert wanted is not None
        codes = wanted[0]
        if (self.name, codes) in DIFFERENT:
            self.differences.add((self.name, codes))
            codes, _ = DIFFERENT[self.name, codes]
        assert self.lines.pop(0).startswith(codes)


@pytest.mark.vector_files("dialogs/*.cmy")
def test_dialogue(vector_file: Path) -> None:
    dialogue = Dialogue(vector_file.stem)
    for line in vector_file.read_text(encoding="utf-8").splitlines():
        step = _STEP.fullmatch(line)
        if step is not None:
            dialogue.step(step[1], step[2])
        else:
            assert not line.strip() or line.startswith("#"), line
    assert dialogue.differences == {key for key in DIFFERENT if key[0] == vector_file.stem}
    verify = vector_file.with_suffix(".cmy.verify")
    if verify.exists():
        (content,) = (event.data for event in dialogue.driver.events if isinstance(event, Content))
        assert content == verify.read_bytes().replace(b"\n", b"\r\n")


# ---- fuzz seeds ----------------------------------------------------------------------------------


def seed_of(path: Path) -> bytes:
    text = path.read_bytes()
    if not text.startswith(b"go test fuzz"):
        return text
    literal = re.search(rb'\[\]byte\((".*")\)', text)
    assert literal is not None
    value = ast.literal_eval(literal[1].decode())
    assert isinstance(value, str)
    return value.encode()


def outcomes(data: bytes, *, normalize: bool) -> list[tuple[list[object], bytes]]:
    results = []
    for pieces in ([data], linewise(data), bytewise(data)):
        options = ServerOptions(
            "testserver",
            forbid_early_talk=False,
            bare_newlines_normalize=normalize,
            auth_mechanisms=("PLAIN",),
            auth_without_tls=True,
        )
        driver = ChasquidDriver(options)
        driver.feed_all(pieces)
        results.append((list[object](driver.events), driver.sent))
    return results


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.vector_files("fuzz/chasquid/*", "fuzz/*.raw")
def test_seed(vector_file: Path, *, normalize: bool) -> None:
    for data in (seed_of(vector_file), seed_of(vector_file).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")):
        results = outcomes(data, normalize=normalize)
        for one, other in pairwise(results):
            assert one == other


@pytest.mark.vector_files("fuzz/smtp.dict")
def test_every_word_of_the_dictionary_is_answered(vector_file: Path) -> None:
    words = re.findall(r'"(.*)"', vector_file.read_text(encoding="utf-8"))
    assert words
    for word in words:
        driver = ChasquidDriver(OPTIONS)
        assert re.match(rb"[2-5][0-9][0-9][ -]", driver.feed(word.encode() + b"\r\n"))


def test_a_seed_that_is_a_whole_session_delivers_one_mail(vectors: Path) -> None:
    data = (vectors / "fuzz" / "smtp_requests_full.raw").read_bytes()
    driver = ChasquidDriver(OPTIONS)
    driver.feed_all(linewise(data))
    assert [event.data for event in driver.events if isinstance(event, Content)] == [b"abc\r\n"]
    assert driver.sent.endswith(b"250 2.6.0 queued\r\n221 2.0.0 Goodbye\r\n")


def test_the_user_of_the_dialogues() -> None:
    secret = base64.b64encode(b"\0".join((USER, USER, PASSWORD)))
    driver = ChasquidDriver(ServerOptions("x", auth_mechanisms=("PLAIN",), auth_without_tls=True))
    driver.feed(b"EHLO x\r\n")
    assert driver.feed(b"AUTH PLAIN " + secret + b"\r\n").startswith(b"235 ")
    assert driver.connection.authenticated_user == USER.decode()
