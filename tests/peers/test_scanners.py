"""Real scanners, asked by the plugins: clamd about EICAR, spamd about GTUBE, rspamd about all it can advise."""

import base64
import smtplib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from email import message_from_bytes
from pathlib import Path
from random import Random
from typing import Any

import pytest
from attrs import evolve

from elemta.config.scanners import AntispamSection, AntivirusSection, ClamavSection, RspamdSection, SpamassassinSection
from elemta.mail.trace import Arrival, received
from elemta.net.sockets import SystemNetwork
from elemta.plugins.api import AddHeader, Continue, Defer, Quarantine, Reject, ReplaceHeader
from elemta.plugins.scanners.clamav import ClamAV
from elemta.plugins.scanners.failure import ScannerFailed
from elemta.plugins.scanners.rspamd import Rspamd
from elemta.plugins.scanners.spamassassin import SpamAssassin
from elemta.simulation.resolver import Name, ScriptedResolver
from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.peers import scanners
from tests.peers.rspamd import PASSWORD
from tests.peers.rspamd import Rspamd as RspamdDaemon
from tests.peers.scanners import EICAR, GTUBE, STREAM_MAX_OCTETS
from tests.peers.wire import free_port, queued, wait_until
from tests.plugins.scanning import CLIENT, CLIENT_NAME, NAMES, ScannerHost, a_mail, told

Needs = Callable[[str], Path]

HEADER = b"From: a@example.org\r\nTo: b@example.com\r\nMIME-Version: 1.0\r\n"
DATES = b"Date: Wed, 25 Nov 2026 18:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n"


def mail(body: bytes = b"hello\r\n", subject: bytes = b"hello") -> Any:
    return a_mail(HEADER + DATES + b"Subject: " + subject + b"\r\n\r\n" + body, HEADER)


def attached(octets: bytes) -> Any:
    """A mail that is one file."""
    head = b'Content-Type: application/octet-stream; name="x"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    return a_mail(HEADER + DATES + head + base64.encodebytes(octets).replace(b"\n", b"\r\n"), HEADER)


@pytest.fixture
def host() -> Any:
    """The system's network, and a few names."""
    return host_with(NAMES)


def host_with(names: dict[str, Name]) -> Any:
    here = {"localhost": Name(addresses=("127.0.0.1",))}
    return ScannerHost(SystemNetwork(), ScriptedResolver({**here, **names}, Random(0)))


# ---- ClamAV --------------------------------------------------------------------------------------


@pytest.fixture
def clamd(needs: Needs, open_folder: Path) -> Iterator[scanners.Clamd]:
    with scanners.Clamd(needs("clamd"), open_folder) as running:
        yield running


async def test_clamav_finds_eicar(host: Any, clamd: scanners.Clamd) -> None:
    for address in (clamd.address, f"localhost:{clamd.port}", f"unix:{clamd.folder}/clamd.ctl"):
        plugin = ClamAV(host, AntivirusSection(clamav=ClamavSection(address=address)))
        assert await plugin.on_data_complete(attached(EICAR)) == Reject(
            "virus found: Test.EICAR.UNOFFICIAL", 554, "5.7.1"
        )
        assert told(await plugin.on_data_complete(attached(b"harmless"))) == {"clamav": "no virus"}
        large = attached(b"\0" * (STREAM_MAX_OCTETS * 2 // 3))
        assert told(await plugin.on_data_complete(large)) == {"clamav": "no virus"}
        # clamd hangs up in the middle; why is what it said before.
        with pytest.raises(ScannerFailed, match=r"size limit exceeded.*StreamMaxLength|ended|broke"):
            await plugin.on_data_complete(attached(b"\0" * STREAM_MAX_OCTETS * 8))


# ---- SpamAssassin --------------------------------------------------------------------------------


@pytest.fixture
def spamd(needs: Needs, open_folder: Path) -> Iterator[scanners.Spamd]:
    with scanners.Spamd(needs("spamd"), open_folder) as running:
        yield running


async def test_spamassassin_finds_gtube(host: Any, spamd: scanners.Spamd) -> None:
    own = SpamassassinSection(address=spamd.address, reject_threshold=900.0, quarantine_threshold=-500.0)
    strict = SpamAssassin(host, AntispamSection(spamassassin=own))
    verdict = await strict.on_data_complete(mail(b"X" + GTUBE + b"\r\n"))
    assert isinstance(verdict, Reject)
    assert str(verdict.reply) == "554 5.7.1 refused as spam"
    assert verdict.score >= 1000
    held = await strict.on_data_complete(mail())
    assert isinstance(held, Quarantine)

    mild = SpamAssassin(host, AntispamSection(spamassassin=SpamassassinSection(address=spamd.address)))
    verdict = await mild.on_data_complete(mail(b"X" + GTUBE + b"\r\n"))
    assert isinstance(verdict, Continue)
    assert AddHeader("X-Spam-Flag", "YES") in verdict.changes
    assert "GTUBE" in told(verdict)["spamassassin"]
    large = mail(b"0123456789abcd\r\n" * 20_000)
    verdict = await mild.on_data_complete(large)
    assert isinstance(verdict, Continue)
    assert AddHeader("X-Spam-Flag", "YES") not in verdict.changes


async def test_spamassassin_knows_the_client(spamd: scanners.Spamd) -> None:
    """Our own `Received` does not hold the name of the client's address, and a rule gives points for that."""
    arrival = Arrival("client.example", CLIENT, "mail.example.com", "ESMTP", "0123456789abcdefghijkl", 0.0)
    settings = AntispamSection(spamassassin=SpamassassinSection(address=spamd.address))
    found = []
    for names in (NAMES, {}):
        plugin = SpamAssassin(host_with(names), settings)
        asked = a_mail(received(arrival) + HEADER + DATES + b"Subject: hello\r\n\r\nhello\r\n", HEADER)
        asked.session = evolve(asked.session, user="")  # who logs in is trusted, by whatever name
        found.append(told(await plugin.on_data_complete(asked))["spamassassin"])
    assert ["RDNS_NONE" in words for words in found] == [False, True]
    assert ["NO_RECEIVED" in words for words in found] == [False, False]


# ---- rspamd --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running_rspamd(needs: Needs) -> Iterator[RspamdDaemon]:
    """One for all tests: it takes seconds to start."""
    with tempfile.TemporaryDirectory(prefix="elemta-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with RspamdDaemon(needs("rspamd"), folder) as running:
            yield running


@asynccontextmanager
async def asking(host: Any, where: int | str, **keys: Any) -> AsyncIterator[Rspamd]:
    address = where if isinstance(where, str) else f"http://localhost:{where}"
    plugin = Rspamd(host, AntispamSection(rspamd=RspamdSection(address=address, **keys)))
    await plugin.start()
    yield plugin
    await plugin.stop()


@pytest.mark.parametrize("over", ["tcp", "unix"])
async def test_rspamd_decides(host: Any, running_rspamd: RspamdDaemon, over: str) -> None:
    async with asking(host, running_rspamd.port if over == "tcp" else f"unix:{running_rspamd.path}") as plugin:
        refused = await plugin.on_data_complete(mail(b"X" + GTUBE + b"\r\n"))
        assert refused == Reject("Gtube pattern", 554, "5.7.1", 15.0)
        tagged = await plugin.on_data_complete(mail(b"Y" + GTUBE + b"\r\n"))
        assert isinstance(tagged, Continue)
        assert {AddHeader("X-Spam-Flag", "YES"), AddHeader("X-Spam-Score", "6.0")} <= {*tagged.changes}
        rewritten = await plugin.on_data_complete(mail(b"Z" + GTUBE + b"\r\n"))
        assert isinstance(rewritten, Continue)
        assert ReplaceHeader("Subject", "*** SPAM *** hello") in rewritten.changes
        later = await plugin.on_data_complete(mail(subject=b"later"))
        assert later == Defer("come back later", 451, "4.7.1")
        # Without its greylisting module rspamd says so each time: a mail must not wait for ever.
        grey = await plugin.on_data_complete(mail(subject=b"grey"))
        assert told(grey) == {"rspamd": "no spam, score 5.0: FIVE_POINTS"}
        clean = await plugin.on_data_complete(mail(b"0123456789abcd\r\n" * 100_000))
        assert told(clean) == {"rspamd": "no spam, score 0.0: no rule met"}


async def test_rspamd_is_told_the_envelope(host: Any, running_rspamd: RspamdDaemon) -> None:
    asked = mail(subject=b"tell")
    async with asking(host, running_rspamd.port) as plugin:
        verdict = await plugin.on_data_complete(asked)
    assert isinstance(verdict, Reject)
    assert verdict.text.split() == [
        "a@example.org",
        "b@example.com",
        "c@example.com",
        CLIENT,
        CLIENT_NAME,
        "client.example",
        "alice",
        "0123456789abcdefghijkl",
        str(asked.content.size),
    ]


async def test_thresholds_of_ours(host: Any, running_rspamd: RspamdDaemon) -> None:
    async with asking(host, running_rspamd.port, threshold=4.5, quarantine_threshold=5.5) as plugin:
        assert isinstance(await plugin.on_data_complete(mail(b"X" + GTUBE + b"\r\n")), Quarantine)
        verdict = await plugin.on_data_complete(mail(subject=b"grey"))
    assert told(verdict) == {"rspamd": "spam, score 5.0 of 4.5: FIVE_POINTS"}


async def test_rspamd_may_ask_for_a_password(host: Any, running_rspamd: RspamdDaemon) -> None:
    port = running_rspamd.guarded
    async with asking(host, port, api_key=PASSWORD) as plugin:
        assert isinstance(await plugin.on_data_complete(mail()), Continue)
    async with asking(host, port, api_key="guessed") as plugin:
        with pytest.raises(ScannerFailed, match=r"it answers 40[13]: is api_key right"):
            await plugin.on_data_complete(mail())


# ---- the whole server ----------------------------------------------------------------------------


def through(sink: RecordingSink, antispam: dict[str, object], clamd: scanners.Clamd) -> dict[str, object]:
    """A server that has mail scanned and sends it to the sink."""
    return {
        "hostname": "mail.example.com",
        "allowed_relays": ["127.0.0.1"],
        "antispam": {"enabled": True, **antispam},
        "antivirus": {"enabled": True, "clamav": {"enabled": True, "address": clamd.address}},
        "routes": [{"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": sink.port}],
    }


def send(server: ServerProcess, mail: Any) -> str:
    """Send a mail; what the server said to it, or nothing when it was taken."""
    with smtplib.SMTP("127.0.0.1", server.port, local_hostname="client", timeout=60) as smtp:
        try:
            assert smtp.sendmail("a@example.org", ["b@example.com"], mail.content.octets) == {}
        except smtplib.SMTPDataError as refused:
            said = refused.smtp_error
            return f"{refused.smtp_code} {said if isinstance(said, str) else said.decode()}"
    return ""


def test_a_server_has_mail_scanned(
    tmp_path: Path, sink: RecordingSink, clamd: scanners.Clamd, running_rspamd: RspamdDaemon
) -> None:
    rspamd = {"enabled": True, "address": f"http://localhost:{running_rspamd.port}"}
    with ServerProcess(tmp_path, through(sink, {"rspamd": rspamd}, clamd)) as server:
        assert send(server, attached(EICAR)) == "554 5.7.1 virus found: Test.EICAR.UNOFFICIAL"
        assert send(server, mail(b"X" + GTUBE + b"\r\n")) == "554 5.7.1 Gtube pattern"
        assert send(server, mail(subject=b"later")) == "451 4.7.1 come back later"
        forged = a_mail(b"X-Spam-Flag: NO\r\nX-Spam-Score: -99\r\n" + mail(b"Z" + GTUBE + b"\r\n").content.octets)
        assert send(server, forged) == ""
        (taken,) = sink.wait_for(1)
        parsed = message_from_bytes(taken.content)
        assert parsed["Subject"] == "*** SPAM *** hello"
        assert parsed.get_all("X-Spam-Flag") == ["YES"]
        assert parsed.get_all("X-Spam-Score") == ["8.0"]


def test_a_server_without_its_scanners(tmp_path: Path, sink: RecordingSink, needs: Needs, open_folder: Path) -> None:
    """Without the spam filter mail goes on, by default; without the virus scanner it waits outside."""
    clamd = scanners.Clamd(needs("clamd"), open_folder)
    rspamd = {"enabled": True, "address": f"http://127.0.0.1:{free_port()}"}
    with ServerProcess(tmp_path, through(sink, {"rspamd": rspamd}, clamd)) as server:
        assert send(server, mail()).startswith("451 4.3.0 ")
        assert f"clamav at {clamd.address}: cannot connect: Connection refused" in server.log
        with clamd:
            assert send(server, mail()) == ""
            (taken,) = sink.wait_for(1)
        assert "X-Spam-Status" not in message_from_bytes(taken.content)


def test_a_server_holds_what_may_be_spam(
    tmp_path: Path, sink: RecordingSink, clamd: scanners.Clamd, running_rspamd: RspamdDaemon
) -> None:
    rspamd = {"enabled": True, "address": f"http://localhost:{running_rspamd.port}", "quarantine_threshold": 10}
    with ServerProcess(tmp_path, through(sink, {"rspamd": rspamd}, clamd)) as server:
        assert send(server, mail(b"X" + GTUBE + b"\r\n")) == ""
        assert send(server, mail()) == ""
        sink.wait_for(1)
        wait_until(lambda: queued(server) == 1, "the other mail is held")
    assert len(sink.mails) == 1
