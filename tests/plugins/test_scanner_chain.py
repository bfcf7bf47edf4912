"""Scanners in the chain, as the configuration asks for them: fail safe, harder verdicts first, no forged field."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
import trio
from structlog.testing import LogCapture
from trio.testing import MockClock

from elemta.config.scanners import AntispamSection, AntivirusSection
from elemta.config.structure import structure_as
from elemta.config.wanted import wanted_scanners
from elemta.observe.metrics import Metrics
from elemta.plugins.api import CONTINUE, Defer, Reject, Stage, Verdict
from elemta.plugins.chain import Chain
from elemta.plugins.loader import Found, load_plugins
from elemta.plugins.scanners.clamav import ClamAV
from elemta.plugins.scanners.spamassassin import SpamAssassin
from tests.plugins.fakes import a_mail
from tests.plugins.scanning import ADDRESS, Octets, Talk, hang, scanner
from tests.plugins.test_scanner_daemons import clamd, spamd

KNOWN = {
    "clamav": Found("clamav", "here", lambda: ClamAV),
    "spamassassin": Found("spamassassin", "here", lambda: SpamAssassin),
}
EICAR = b"stream: Eicar FOUND\0"


@asynccontextmanager
async def chain(talk: Talk | None, capture: LogCapture, **sections: dict[str, Any]) -> AsyncIterator[Chain]:
    """What the configuration's sections make of a chain that runs; each scanner is asked at the one address."""
    for section, scanner_name in (("antispam", "spamassassin"), ("antivirus", "clamav")):
        if section in sections:
            sections[section] |= {"enabled": True, scanner_name: {"enabled": True, "address": ADDRESS, "timeout": 5}}
    antispam = structure_as(AntispamSection, sections.get("antispam", {}))
    antivirus = structure_as(AntivirusSection, sections.get("antivirus", {}))
    log = structlog.wrap_logger(None, processors=[capture])
    async with scanner(talk) as host, trio.open_nursery() as nursery:
        members = load_plugins(wanted_scanners(antispam, antivirus), KNOWN, lambda _: host)
        made = Chain(members, log=log, metrics=Metrics())
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()


async def verdict_of(made: Chain) -> Verdict:
    mail = a_mail()
    return await made.ask(Stage.DATA_COMPLETE, mail, mail)


@pytest.mark.parametrize("talk", [None, hang])
@pytest.mark.parametrize(
    ("sections", "kind", "code"),
    [
        ({"antivirus": {}}, Defer, 451),
        ({"antivirus": {"on_failure": "reject"}}, Reject, 550),
        ({"antivirus": {"reject_on_failure": True}}, Reject, 550),
        ({"antispam": {"on_failure": "defer"}}, Defer, 451),
    ],
)
async def test_filters_fail_safe(
    autojump_clock: MockClock, talk: Talk | None, sections: dict[str, Any], kind: type, code: int
) -> None:
    capture = LogCapture()
    async with chain(talk, capture, **{name: dict(keys) for name, keys in sections.items()}) as made:
        start = trio.current_time()
        verdict = await verdict_of(made)
        assert trio.current_time() - start <= 5
    assert isinstance(verdict, kind)
    assert isinstance(verdict, Defer | Reject)
    assert verdict.code == code
    words = "cannot connect" if talk is None else "no answer within 5 s"
    assert any(f"at {ADDRESS}: {words}" in str(entry) for entry in capture.entries), "the log says who and why"


async def test_without_a_spam_filter_mail_goes_on(autojump_clock: MockClock) -> None:
    async with chain(None, LogCapture(), antispam={}) as made:
        assert await verdict_of(made) == CONTINUE


async def test_verdicts_reach_the_client(autojump_clock: MockClock) -> None:
    for talk, sections in (
        (spamd("9.0 / 5.0"), {"antispam": {"reject_on_spam": True}}),
        (clamd(EICAR), {"antivirus": {}}),
    ):
        async with chain(talk, LogCapture(), **sections) as made:
            verdict = await verdict_of(made)
        assert isinstance(verdict, Reject)
        assert verdict.code == 554


async def test_a_mail_goes_on_with_the_fields_of_this_server_alone(autojump_clock: MockClock) -> None:
    header = b"X-Spam-Status: No\r\nFrom: a@example.org\r\nx-spam-flag: NO\r\n"
    octets = Octets(header + b"\r\nbody\r\n")
    async with chain(spamd("7.1 / 5.0"), LogCapture(), antispam={}) as made:
        mail = a_mail()
        mail.header_came(header)
        await made.ask(Stage.DATA_HEADERS, mail, mail)
        mail.content_came(octets.read, header_octets=len(header), size=octets.size)
        await made.ask(Stage.DATA_COMPLETE, mail, mail)
    assert [name for name, _ in mail.headers.fields] == [
        "X-Spam-Flag",
        "X-Spam-Score",
        "X-Spam-Level",
        "X-Spam-Status",
        "From",
    ]
    assert mail.headers.raw("X-Spam-Flag") == [b"YES"]
    assert mail.score == 7.1
    assert mail.annotations["spamassassin"] == "spam, score 7.1 of 5.0: A B_C"
