"""The plugin that asks rspamd: what goes over HTTP, what follows from each action, what is a failure."""

import contextlib
import json
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock

from elemta.config.scanners import AntispamSection, RspamdSection
from elemta.net.base import Stream
from elemta.plugins.api import (
    CONTINUE,
    AddHeader,
    Continue,
    Defer,
    Discard,
    Quarantine,
    Reject,
    RemoveHeader,
    ReplaceHeader,
    Verdict,
)
from elemta.plugins.scanners.checkv2 import parse_answer
from elemta.plugins.scanners.failure import ScannerFailed
from elemta.plugins.scanners.http import MAX_ANSWER_OCTETS
from elemta.plugins.scanners.rspamd import Rspamd
from tests.plugins.scanning import ADDRESS, CONTENT, NAME, PORT, Talk, a_mail, hang, received, scanner, told

URL = f"http://{ADDRESS}"
LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcd\r\n" * 20_000


def says(action: str = "no action", score: float = 1.5, **more: object) -> bytes:
    return json.dumps({"action": action, "score": score, "symbols": {"A": {}, "B_C": {}}, **more}).encode()


def http(body: bytes, *, status: str = "200 OK", heard: list[bytes] | None = None) -> Talk:
    async def talk(stream: Stream) -> None:
        said = await received(stream, lambda said: b"\r\n\r\n" in said)
        head, _, mail = said.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        mail += await received(stream, lambda rest: len(mail) + len(rest) >= length) if len(mail) < length else b""
        if heard is not None:
            heard.extend([head, mail])
        await stream.send_all(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    return talk


def rspamd(host: Any, *, reject_on_spam: bool = False, **keys: Any) -> Rspamd:
    own = RspamdSection(enabled=True, **{"address": URL, **keys})
    return Rspamd(host, AntispamSection(enabled=True, reject_on_spam=reject_on_spam, rspamd=own))


@asynccontextmanager
async def asking(talk: Talk | None, **keys: Any) -> AsyncIterator[Rspamd]:
    """A plugin that is started, and somebody to ask."""
    async with scanner(talk) as host:
        plugin = rspamd(host, **keys)
        await plugin.start()
        yield plugin
        await plugin.stop()


async def test_rspamd_hears_the_whole_mail(autojump_clock: MockClock) -> None:
    heard: list[bytes] = []
    async with asking(http(says(), heard=heard), api_key="hunter2") as plugin:
        verdict = await plugin.on_data_complete(a_mail(LARGE))
    assert isinstance(verdict, Continue)
    assert verdict.score == 1.5
    assert told(verdict) == {"rspamd": "no spam, score 1.5: A B_C"}
    head, mail = heard
    assert mail == LARGE
    first, *fields = head.split(b"\r\n")
    assert first == b"POST /checkv2 HTTP/1.1"
    assert fields == [
        b"Host: scanner.example:7000",
        b"Content-Length: %d" % len(LARGE),
        b"From: <a@example.org>",
        b"IP: 198.51.100.7",
        b"Hostname: out.example.org",
        b"Helo: client.example",
        b"User: alice",
        b"Queue-Id: 0123456789abcdefghijkl",
        b"MTA-Name: mail.example.com",
        b"Password: hunter2",
        b"Rcpt: <b@example.com>",
        b"Rcpt: <c@example.com>",
    ]


async def test_several_mails_one_after_the_other(autojump_clock: MockClock) -> None:
    async with asking(http(says())) as plugin:
        for _ in range(3):
            assert isinstance(await plugin.on_data_complete(a_mail()), Continue)


async def test_over_a_unix_socket(autojump_clock: MockClock) -> None:
    heard: list[bytes] = []
    async with scanner(http(says(), heard=heard), path="/run/rspamd.sock") as host:
        plugin = rspamd(host, address="unix:/run/rspamd.sock")
        await plugin.start()
        assert isinstance(await plugin.on_data_complete(a_mail()), Continue)
    assert heard[0].startswith(b"POST /checkv2 HTTP/1.1\r\nHost: localhost\r\n")


async def test_a_path_goes_before(autojump_clock: MockClock) -> None:
    heard: list[bytes] = []
    async with asking(http(says(), heard=heard), address=f"{URL}/filter") as plugin:
        assert isinstance(await plugin.on_data_complete(a_mail()), Continue)
    assert heard[0].startswith(b"POST /filter/checkv2 HTTP/1.1\r\n")


# ---- what follows --------------------------------------------------------------------------------


def judged(answer: bytes, **keys: Any) -> Verdict:
    return rspamd(None, **keys).judge(parse_answer(answer))


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        ("reject", Reject("refused as spam", 554, "5.7.1", 7.0)),
        ("soft reject", Defer("try again later", 451, "4.7.1", 7.0)),
        ("discard", Discard("rspamd: score 7", 7.0)),
    ],
)
def test_hard_actions(action: str, verdict: Verdict) -> None:
    assert judged(says(action, 7.0)) == verdict


def test_the_words_of_rspamd_reach_the_client() -> None:
    messages = {"smtp_message": "Try again\r\nlater, Jürgen"}
    assert judged(says("soft reject", messages=messages)) == Defer("Try again later, J?rgen", 451, "4.7.1", 1.5)
    assert judged(says("reject", messages=messages)) == Reject("Try again later, J?rgen", 554, "5.7.1", 1.5)


@pytest.mark.parametrize(
    ("action", "kind", "is_spam"),
    [
        ("no action", Continue, False),
        ("greylist", Continue, False),
        ("of our operator", Continue, False),
        ("add header", Continue, True),
        ("rewrite subject", Continue, True),
        ("quarantine", Quarantine, True),
    ],
)
def test_mild_actions(action: str, kind: type, is_spam: bool) -> None:
    verdict = judged(says(action, 6.5))
    assert isinstance(verdict, Continue | Quarantine)
    assert isinstance(verdict, kind)
    assert (AddHeader("X-Spam-Flag", "YES") in verdict.changes) is is_spam
    assert AddHeader("X-Spam-Score", "6.5") in verdict.changes


def test_greylisting_by_the_score_alone_is_a_choice() -> None:
    assert judged(says("greylist"), defer_greylist=True) == Defer("greylisted, try again later", 451, "4.7.1", 1.5)


@pytest.mark.parametrize(
    ("subject", "value"),
    [
        ("*** SPAM *** hello", b"*** SPAM *** hello"),
        ("*** SPAM ***\r\nBcc: x", b"*** SPAM *** Bcc: x"),
        ("[Spam] Grüße", b"=?utf-8?b?W1NwYW1dIEdyw7zDn2U=?="),
        ("half of \ud83d a pair", b"half of   a pair"),
    ],
)
def test_the_subject_is_rewritten(subject: str, value: bytes) -> None:
    verdict = judged(says("rewrite subject", subject=subject))
    assert isinstance(verdict, Continue)
    assert ReplaceHeader("Subject", value) in verdict.changes


@pytest.mark.parametrize("subject", ["x" * 100_000, "ü" * 100_000, "ü x " * 10_000])
def test_a_long_subject_fits_a_field(subject: str) -> None:
    verdict = judged(says("rewrite subject", subject=subject))
    assert isinstance(verdict, Continue)
    assert any(isinstance(change, ReplaceHeader) for change in verdict.changes)


def test_without_a_subject_none_is_written() -> None:
    verdict = judged(says("rewrite subject"))
    assert isinstance(verdict, Continue)
    assert not any(isinstance(change, ReplaceHeader) for change in verdict.changes)


@pytest.mark.parametrize(
    ("keys", "action", "score", "kind"),
    [
        # With a threshold of ours rspamd's action decides nothing but, at most, what is spam.
        ({"threshold": 6.0}, "reject", 20.0, Continue),
        ({"threshold": 6.0}, "soft reject", 5.0, Continue),
        ({"threshold": 6.0, "reject_threshold": 15.0}, "no action", 15.0, Reject),
        ({"quarantine_threshold": 5.0}, "no action", 5.0, Quarantine),
        ({"quarantine_threshold": 5.0}, "reject", 4.0, Continue),
        # All spam is refused, by whatever opinion.
        ({"reject_on_spam": True}, "add header", 7.0, Reject),
        ({"reject_on_spam": True}, "no action", 3.0, Continue),
        ({"reject_on_spam": True}, "soft reject", 3.0, Defer),
        ({"reject_on_spam": True, "threshold": 6.0}, "no action", 6.0, Reject),
    ],
)
def test_thresholds(keys: dict[str, Any], action: str, score: float, kind: type) -> None:
    assert isinstance(judged(says(action, score), **keys), kind)


async def test_forged_fields_go_before_any_scan(autojump_clock: MockClock) -> None:
    plugin = rspamd(None)
    forged = a_mail(header=b"X-Spam: no\r\nFrom: a@example.org\r\n")
    assert await plugin.on_data_headers(forged) == Continue((RemoveHeader("X-Spam"),))
    assert await plugin.on_data_headers(a_mail()) == CONTINUE


# ---- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("talk", "says"),
    [
        (http(b"", status="401 Unauthorized"), "it answers 401: is api_key right?"),
        (http(b"", status="403 Forbidden"), "it answers 403: is api_key right?"),
        (http(b"no\x1bmemory", status="500 Oops"), "it answers 500 no memory"),
        (http(b"", status="302 Found"), "it answers 302"),
        (http(b"<html>"), "an answer that is no JSON"),
        (http(b" " * (MAX_ANSWER_OCTETS + 1)), f"an answer of more than {MAX_ANSWER_OCTETS} octets"),
        (None, "cannot connect: Connection refused"),
    ],
)
async def test_failures(autojump_clock: MockClock, talk: Talk | None, says: str) -> None:
    async with asking(talk) as plugin:
        with pytest.raises(ScannerFailed) as failure:
            await plugin.on_data_complete(a_mail())
    assert str(failure.value) == f"rspamd at {URL}: {says}"


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b"220 mail.example.com\r\n", b"\0" * 100]
)
async def test_broken_answers(autojump_clock: MockClock, answer: bytes) -> None:
    async def talk(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)

    async with asking(talk) as plugin:
        with pytest.raises(ScannerFailed, match=f"^rspamd at {URL}: no whole answer: "):
            await plugin.on_data_complete(a_mail(LARGE * 10))


async def test_rspamd_may_hang_up_in_the_middle(autojump_clock: MockClock) -> None:
    async def talk(stream: Stream) -> None:
        await stream.receive_some()
        stream.abort()

    async with asking(talk) as plugin:
        with pytest.raises(ScannerFailed, match="the connection broke before the answer"):
            await plugin.on_data_complete(a_mail(LARGE * 10))


async def endless(stream: Stream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await stream.send_all(b" " * 65536)
        await trio.sleep(0.1)


async def deaf(stream: Stream) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("talk", [hang, deaf, endless])
async def test_rspamd_hangs(autojump_clock: MockClock, talk: Talk) -> None:
    async with asking(talk, timeout=7.5) as plugin:
        start = trio.current_time()
        with pytest.raises(ScannerFailed, match=f"^rspamd at {URL}: no answer within 7.5 s$"):
            await plugin.on_data_complete(a_mail(LARGE))
        assert trio.current_time() - start == 7.5


async def test_a_large_mail_is_not_scanned_and_says_so(autojump_clock: MockClock) -> None:
    async with asking(None, scan_limit=len(CONTENT) - 1) as plugin:
        note = told(await plugin.on_data_complete(a_mail()))["rspamd"]
    assert note == f"not scanned: {len(CONTENT)} octets, scan_limit is {len(CONTENT) - 1}"


async def test_a_mail_is_never_held_as_a_whole(autojump_clock: MockClock) -> None:
    mail = a_mail(b"x" * 10_000_000)
    async with asking(deaf) as plugin:
        with pytest.raises(ScannerFailed, match="no answer"):
            await plugin.on_data_complete(mail)
    assert mail.content.taken <= 4 * 64 * 1024
    assert mail.content.largest <= 64 * 1024


async def test_of_a_huge_answer_little_is_held(autojump_clock: MockClock) -> None:
    pieces = 256

    async def talk(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (pieces * 65536))
        for _ in range(pieces):
            await stream.send_all(bytes(65536))

    async with asking(talk, timeout=1e6) as plugin:
        tracemalloc.start()
        with pytest.raises(ScannerFailed, match="an answer of more than"):
            await plugin.on_data_complete(a_mail())
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < pieces * 65536 / 4


# ---- TLS -----------------------------------------------------------------------------------------


def over_tls(talk: Talk, name: str, authority: trustme.CA) -> Talk:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)

    async def upgraded(stream: Stream) -> None:
        tls: Any = trio.SSLStream(stream, context, server_side=True)
        await tls.do_handshake()
        await talk(tls)

    return upgraded


@pytest.mark.parametrize(("name", "is_right"), [(NAME, True), ("other.example", False)])
async def test_https(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, name: str, is_right: bool) -> None:
    authority = trustme.CA()
    with authority.cert_pem.tempfile() as trusted:
        monkeypatch.setenv("SSL_CERT_FILE", trusted)
        async with asking(over_tls(http(says()), name, authority), address=f"https://{NAME}:{PORT}") as plugin:
            if is_right:
                assert isinstance(await plugin.on_data_complete(a_mail()), Continue)
            else:
                with pytest.raises(ScannerFailed, match=r"TLS handshake failed.*certificate"):
                    await plugin.on_data_complete(a_mail())


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_who_hangs_is_left(autojump_clock: MockClock, scheme: str) -> None:
    gone = trio.Event()

    async def talk(stream: Stream) -> None:
        try:
            await hang_up_only(stream)
        finally:
            gone.set()

    async with asking(talk, address=f"{scheme}://{ADDRESS}", timeout=3) as plugin:
        with pytest.raises(ScannerFailed, match="no answer within 3 s"):
            await plugin.on_data_complete(a_mail())
        with trio.fail_after(1):
            await gone.wait()


async def hang_up_only(stream: Stream) -> None:
    """Take what comes, until the other side hangs up."""
    with contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass
