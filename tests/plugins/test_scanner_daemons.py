"""The plugins that ask spamd and clamd: what they send, what follows, what is a failure."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from elemta.config.scanners import AntispamSection, AntivirusSection, ClamavSection, OnVirus, SpamassassinSection
from elemta.net.base import Stream
from elemta.plugins.api import AddHeader, Continue, Quarantine, Reject, RemoveHeader
from elemta.plugins.scanners.base import MAX_SCANS
from elemta.plugins.scanners.clamav import ClamAV
from elemta.plugins.scanners.failure import ScannerFailed
from elemta.plugins.scanners.spamassassin import SpamAssassin
from tests.plugins.scanning import ADDRESS, CONTENT, Talk, a_mail, hang, received, scanner, told

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcd\r\n" * 20_000
PROLOGUE = (
    b"Return-Path: <a@example.org>\r\n"
    b"Received: from client.example (out.example.org [198.51.100.7])\r\n"
    b"\tby mail.example.com (Elemta) with ESMTPA id 0123456789abcdefghijkl;\r\n"
    b"\tWed, 25 Nov 2026 12:00:00 +0000\r\n"
)
SYMBOLS = b"SYMBOLS SPAMC/1.5\r\nContent-length: %d\r\n\r\n"


def spamd(score: str = "7.1 / 5.0", spam: str = "True", heard: list[bytes] | None = None) -> Talk:
    async def talk(stream: Stream) -> None:
        said = await received(stream, lambda said: b"\r\n\r\n" in said)
        head, _, mail = said.partition(b"\r\n\r\n")
        length = int(head.rpartition(b":")[2])
        mail += await received(stream, lambda rest: len(mail) + len(rest) >= length) if len(mail) < length else b""
        if heard is not None:
            heard.extend([head + b"\r\n\r\n", mail])
        await stream.send_all(f"SPAMD/1.1 0 EX_OK\r\nContent-length: 5\r\nSpam: {spam} ; {score}\r\n\r\nA,B_C".encode())

    return talk


def clamd(answer: bytes = b"stream: OK\0", heard: list[bytes] | None = None) -> Talk:
    async def talk(stream: Stream) -> None:
        said = await received(stream, lambda said: said.endswith(b"\0\0\0\0"))
        if heard is not None:
            assert said.startswith(b"zINSTREAM\0")
            rest = said.removeprefix(b"zINSTREAM\0")
            while length := int.from_bytes(rest[:4], "big"):
                heard.append(rest[4 : 4 + length])
                rest = rest[4 + length :]
            assert rest == b"\0\0\0\0"
        await stream.send_all(answer)

    return talk


def spamassassin(host: Any, *, reject_on_spam: bool = False, **keys: Any) -> SpamAssassin:
    own = SpamassassinSection(enabled=True, **{"address": ADDRESS, **keys})
    return SpamAssassin(host, AntispamSection(enabled=True, reject_on_spam=reject_on_spam, spamassassin=own))


def clamav(host: Any, *, on_virus: OnVirus = OnVirus.REJECT, **keys: Any) -> ClamAV:
    own = ClamavSection(enabled=True, **{"address": ADDRESS, **keys})
    return ClamAV(host, AntivirusSection(enabled=True, on_virus=on_virus, clamav=own))


PLUGINS = pytest.mark.parametrize("make", [spamassassin, clamav])

# ---- SpamAssassin --------------------------------------------------------------------------------


async def test_spamd_hears_the_whole_mail(autojump_clock: MockClock) -> None:
    heard: list[bytes] = []
    async with scanner(spamd(heard=heard)) as host:
        verdict = await spamassassin(host).on_data_complete(a_mail(LARGE))
    assert heard == [SYMBOLS % len(PROLOGUE + LARGE), PROLOGUE + LARGE]
    assert isinstance(verdict, Continue)
    assert verdict.score == 7.1
    assert told(verdict) == {"spamassassin": "spam, score 7.1 of 5.0: A B_C"}
    assert AddHeader("X-Spam-Flag", "YES") in verdict.changes


@pytest.mark.parametrize(
    ("keys", "score", "kind"),
    [
        ({}, "1000.0 / 5.0", Continue),
        ({"reject_on_spam": True}, "5.0 / 5.0", Reject),
        ({"reject_threshold": 10.0}, "9.9 / 5.0", Continue),
        ({"reject_threshold": 10.0}, "10.0 / 5.0", Reject),
        ({"quarantine_threshold": 8.0}, "8.0 / 5.0", Quarantine),
    ],
)
async def test_scores(autojump_clock: MockClock, keys: dict[str, Any], score: str, kind: type) -> None:
    async with scanner(spamd(score)) as host:
        verdict = await spamassassin(host, **keys).on_data_complete(a_mail())
    assert isinstance(verdict, kind)


async def test_a_threshold_of_ours_decides(autojump_clock: MockClock) -> None:
    async with scanner(spamd("4.0 / 5.0", "False")) as host:
        verdict = await spamassassin(host, threshold=3.5, reject_on_spam=True).on_data_complete(a_mail())
        assert verdict == Reject("refused as spam", 554, "5.7.1", 4.0)
        verdict = await spamassassin(host, threshold=4.5).on_data_complete(a_mail())
    assert told(verdict) == {"spamassassin": "no spam, score 4.0 of 4.5: A B_C"}


async def test_forged_fields_go_before_any_scan(autojump_clock: MockClock) -> None:
    async with scanner(None) as host:
        forged = a_mail(header=b"X-Spam-Flag: NO\r\nFrom: a@example.org\r\n")
        assert await spamassassin(host).on_data_headers(forged) == Continue((RemoveHeader("X-Spam-Flag"),))
        assert await spamassassin(host).on_data_headers(a_mail()) == Continue()


# ---- ClamAV --------------------------------------------------------------------------------------


async def test_clamd_hears_the_whole_mail(autojump_clock: MockClock) -> None:
    heard: list[bytes] = []
    async with scanner(clamd(heard=heard)) as host:
        verdict = await clamav(host).on_data_complete(a_mail(LARGE))
    assert b"".join(heard) == LARGE
    assert len(heard) > 1, "in pieces"
    assert told(verdict) == {"clamav": "no virus"}


async def test_a_virus_is_refused_by_its_name(autojump_clock: MockClock) -> None:
    async with scanner(clamd("stream: Eicar\x1b\u202eä FOUND\0".encode())) as host:
        verdict = await clamav(host).on_data_complete(a_mail())
        assert verdict == Reject("virus found: Eicar ?", 554, "5.7.1")
        verdict = await clamav(host, on_virus=OnVirus.QUARANTINE).on_data_complete(a_mail())
    assert isinstance(verdict, Quarantine)
    assert verdict.reason == "virus: Eicar ä"


async def test_clamd_may_refuse_in_the_middle(autojump_clock: MockClock) -> None:
    async def talk(stream: Stream) -> None:
        await stream.receive_some(100)
        await stream.send_all(b"INSTREAM size limit exceeded. ERROR\0")

    async with scanner(talk) as host:
        with pytest.raises(ScannerFailed, match=r"INSTREAM size limit exceeded\.; raise its StreamMaxLength"):
            await clamav(host).on_data_complete(a_mail(LARGE * 10))


# ---- both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "talk"), [(spamassassin, spamd("0.0 / 5.0", "False")), (clamav, clamd())])
async def test_over_a_unix_socket(autojump_clock: MockClock, make: Any, talk: Talk) -> None:
    async with scanner(talk, path="/run/scanner") as host:
        assert isinstance(await make(host, address="unix:/run/scanner").on_data_complete(a_mail()), Continue)


@PLUGINS
async def test_a_large_mail_is_not_scanned_and_says_so(autojump_clock: MockClock, make: Any) -> None:
    async with scanner(None) as host:
        plugin = make(host, scan_limit=len(CONTENT) - 1)
        mail = a_mail()
        (note,) = told(await plugin.on_data_complete(mail)).values()
        assert note == f"not scanned: {len(CONTENT)} octets, scan_limit is {len(CONTENT) - 1}"
        assert mail.content.taken == 0
        with pytest.raises(ScannerFailed):  # one octet less is scanned
            await make(host, scan_limit=len(CONTENT)).on_data_complete(mail)


@PLUGINS
async def test_a_mail_is_never_held_as_a_whole(autojump_clock: MockClock, make: Any) -> None:
    async def talk(stream: Stream) -> None:
        await stream.receive_some(1)
        await trio.sleep_forever()

    mail = a_mail(b"x" * 10_000_000)
    async with scanner(talk) as host:
        with pytest.raises(ScannerFailed, match="no answer"):
            await make(host, scan_limit=2**30).on_data_complete(mail)
    assert mail.content.taken <= 4 * 64 * 1024, "no more was read than could be sent"
    assert mail.content.largest <= 64 * 1024


@PLUGINS
async def test_a_scanner_that_hangs(autojump_clock: MockClock, make: Any) -> None:
    async with scanner(hang) as host:
        plugin = make(host, timeout=12.5)
        start = trio.current_time()
        with pytest.raises(ScannerFailed, match=f"^{plugin.name} at {ADDRESS}: no answer within 12.5 s$"):
            await plugin.on_data_complete(a_mail())
        assert trio.current_time() - start == 12.5


@PLUGINS
async def test_a_scanner_that_hangs_up(autojump_clock: MockClock, make: Any) -> None:
    async def talk(stream: Stream) -> None:
        await stream.receive_some()

    async def reset(stream: Stream) -> None:
        await stream.receive_some()
        stream.abort()

    for one in (talk, reset):
        async with scanner(one) as host:
            with pytest.raises(ScannerFailed, match=f"at {ADDRESS}: the connection (ended|broke) before the answer$"):
                await make(host).on_data_complete(a_mail())


@PLUGINS
async def test_an_answer_without_end(autojump_clock: MockClock, make: Any) -> None:
    async def talk(stream: Stream) -> None:
        while True:
            await stream.send_all(b"x" * 65536)

    async with scanner(talk) as host:
        with pytest.raises(ScannerFailed, match="an answer of more than"):
            await make(host).on_data_complete(a_mail())


@PLUGINS
async def test_a_scanner_that_is_away(autojump_clock: MockClock, make: Any) -> None:
    async with scanner(None) as host:
        for address, says in [
            (ADDRESS, "cannot connect: Connection refused"),
            ("192.0.2.99:9", "cannot connect: Connection refused"),
            ("unix:/run/away", "cannot connect: Connection refused"),
            ("away.example:9", "cannot connect: no address of away.example was found"),
            ("empty.example:9", "cannot connect: empty.example has no address"),
        ]:
            with pytest.raises(ScannerFailed, match=f"at {address}: {says}"):
                await make(host, address=address).on_data_complete(a_mail())


@PLUGINS
async def test_an_address_that_is_dead_does_not_use_up_the_time(autojump_clock: MockClock, make: Any) -> None:
    answers = {spamassassin: spamd("0.0 / 5.0", "False"), clamav: clamd()}
    async with scanner(answers[make], dead_is_silent=True) as host:
        start = trio.current_time()
        assert isinstance(await make(host, timeout=10).on_data_complete(a_mail()), Continue)
        assert trio.current_time() - start == pytest.approx(5.0, abs=0.1)


async def test_scans_wait_for_their_turn(autojump_clock: MockClock) -> None:
    inside = most = late = 0

    async def talk(stream: Stream) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await trio.sleep(10)
        inside -= 1
        await clamd()(stream)

    async def one(plugin: ClamAV) -> None:
        nonlocal late
        try:
            await plugin.on_data_complete(a_mail())
        except ScannerFailed:
            late += 1

    async with scanner(talk) as host:
        plugin = clamav(host, timeout=25)
        async with trio.open_nursery() as nursery:
            for _ in range(3 * MAX_SCANS):
                nursery.start_soon(one, plugin)
    assert most == MAX_SCANS
    assert late == MAX_SCANS, "the third hundred had its turn after 20 of its 25 seconds"
