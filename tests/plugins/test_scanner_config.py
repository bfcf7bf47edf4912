"""The keys of scanners: which values fit, what they mean together, which plugins they ask for."""

from typing import Any

import pytest

from elemta.config.document import Document
from elemta.config.plugins import PluginEntry, PluginFailure
from elemta.config.problems import Report
from elemta.config.scanner_checks import check_scanners
from elemta.config.scanners import AntispamSection, AntivirusSection, OnVirus
from elemta.config.structure import Findings, structure_as, unstructure
from elemta.config.wanted import DEADLINE_MARGIN_SECONDS, Wanted, wanted_scanners
from elemta.plugins.loader import Found, load_plugins
from elemta.plugins.scanners.clamav import ClamAV
from elemta.plugins.scanners.rspamd import Rspamd
from elemta.plugins.scanners.spamassassin import SpamAssassin


def spam(**keys: Any) -> AntispamSection:
    return structure_as(AntispamSection, keys)


def virus(**keys: Any) -> AntivirusSection:
    return structure_as(AntivirusSection, keys)


def test_nothing_is_scanned_by_itself() -> None:
    assert wanted_scanners(AntispamSection(), AntivirusSection()) == []


def test_the_keys_of_the_original() -> None:
    antispam = spam(
        enabled=True,
        reject_on_spam=True,
        spamassassin={
            "enabled": True,
            "address": "localhost:783",
            "timeout": 30,
            "scan_limit": 26_214_400,
            "threshold": 5.0,
        },
        rspamd={
            "enabled": True,
            "address": "http://localhost:11333",
            "timeout": 30,
            "scan_limit": 26_214_400,
            "threshold": 6.0,
            "api_key": "hunter2",
        },
    )
    assert "hunter2" not in repr(antispam)
    antivirus = virus(
        enabled=True,
        reject_on_failure=True,
        clamav={"enabled": True, "address": "localhost:3310", "timeout": 30, "scan_limit": 26_214_400},
    )
    seconds = 30 + DEADLINE_MARGIN_SECONDS
    accept, reject = PluginFailure.ACCEPT, PluginFailure.REJECT
    assert wanted_scanners(antispam, antivirus) == [
        Wanted(PluginEntry("clamav", deadline=seconds, on_error=reject), "antivirus.clamav", antivirus),
        Wanted(PluginEntry("rspamd", deadline=seconds, on_error=accept), "antispam.rspamd", antispam),
        Wanted(PluginEntry("spamassassin", deadline=seconds, on_error=accept), "antispam.spamassassin", antispam),
    ]


def test_both_switches_are_needed() -> None:
    on = {"enabled": True}
    assert wanted_scanners(spam(rspamd=on, spamassassin=on), virus(clamav=on)) == []
    assert wanted_scanners(spam(enabled=True), virus(enabled=True)) == []


def test_the_loader_makes_them() -> None:
    classes = {"clamav": ClamAV, "rspamd": Rspamd, "spamassassin": SpamAssassin}
    known = {name: Found(name, "here", lambda one=one: one) for name, one in classes.items()}  # type: ignore[misc]  # mypy cannot see that a default has a type
    on = {"enabled": True}
    wanted = wanted_scanners(spam(enabled=True, rspamd=on, spamassassin=on), virus(enabled=True, clamav=on))
    host: Any = None
    members = load_plugins(wanted, known, lambda _: host)
    assert {member.name: type(member.plugin) for member in members} == classes
    assert [member.priority for member in members] == [75, 50, 50], "viruses first"


@pytest.mark.parametrize(
    ("keys", "failure"),
    [
        ({}, PluginFailure.DEFER),
        ({"reject_on_failure": True}, PluginFailure.REJECT),
        ({"reject_on_failure": False}, PluginFailure.ACCEPT),
        ({"on_failure": "accept"}, PluginFailure.ACCEPT),
    ],
)
def test_the_policy_of_viruses(keys: dict[str, Any], failure: PluginFailure) -> None:
    assert virus(**keys).failure is failure


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("LOCALHOST:783", "localhost:783"),
        ("[::1]:783", "[::1]:783"),
        ("unix:/run/clamav/clamd.ctl", "unix:/run/clamav/clamd.ctl"),
    ],
)
def test_addresses(written: str, read: str) -> None:
    assert virus(clamav={"address": written}).clamav.address == read
    assert spam(spamassassin={"address": written}).spamassassin.address == read


@pytest.mark.parametrize("address", [":783", "localhost:0", "localhost", "unix:run", "http://localhost:783", 783])
def test_what_is_no_address(address: object) -> None:
    with pytest.raises(Findings):
        virus(clamav={"address": address})


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("http://localhost:11333/", "http://localhost:11333"),
        ("https://Rspamd.Example.com/filter/", "https://rspamd.example.com/filter"),
        ("http://[::1]:11333", "http://[::1]:11333"),
        ("unix:/run/rspamd/rspamd.sock", "unix:/run/rspamd/rspamd.sock"),
    ],
)
def test_base_urls(written: str, read: str) -> None:
    assert spam(rspamd={"address": written}).rspamd.address == read


@pytest.mark.parametrize(
    "address",
    [
        "localhost:11333",
        "ftp://localhost",
        "http://",
        "http://x:99999",
        "http://x:0",
        "unix:run/rspamd.sock",
        "http://me:secret@localhost",
        "http://localhost?x",
        "http://local host",
        "http://[::1",
    ],
)
def test_what_is_no_base_url(address: str) -> None:
    with pytest.raises(Findings):
        spam(rspamd={"address": address})


def test_sections_are_written_as_they_are_read() -> None:
    antivirus = virus(enabled=True, on_failure="reject", on_virus="quarantine")
    assert antivirus.on_virus is OnVirus.QUARANTINE
    assert structure_as(AntivirusSection, unstructure(antivirus)) == antivirus


def said(antispam: dict[str, Any], antivirus: dict[str, Any]) -> list[str]:
    report = Report(Document())
    check_scanners(spam(**antispam), virus(**antivirus), report)
    return [str(one) for one in (*report.problems, *report.notices)]


def test_what_fits_together() -> None:
    rspamd = {"enabled": True, "api_key": "x", "threshold": 5, "quarantine_threshold": 5, "reject_threshold": 6}
    assert said({"enabled": True, "rspamd": rspamd}, {"enabled": True, "clamav": {"enabled": True}}) == []
    assert said({}, {}) == []


@pytest.mark.parametrize(
    ("antispam", "antivirus", "says"),
    [
        ({"enabled": True}, {}, "no mail is scanned: set antispam.spamassassin.enabled or antispam.rspamd.enabled"),
        ({}, {"enabled": True}, "no mail is scanned: set antivirus.clamav.enabled as well"),
        ({"rspamd": {"enabled": True}}, {}, "no mail is scanned: antispam.enabled is false"),
        ({}, {"on_failure": "defer", "reject_on_failure": True}, "Remove one of the two"),
        (
            {"spamassassin": {"threshold": 9, "reject_threshold": 8}},
            {},
            "antispam.spamassassin.threshold: 9 is never reached alone: reject_threshold is 8",
        ),
        (
            {"rspamd": {"quarantine_threshold": 9, "reject_threshold": 8.5}},
            {},
            "quarantine_threshold: 9 is never reached alone: reject_threshold is 8.5",
        ),
        ({"rspamd": {"api_key": "x", "address": "http://rspamd.example.com"}}, {}, "sent in the clear"),
        ({"rspamd": {"api_key": "x", "address": "http://192.0.2.1:11333"}}, {}, "sent in the clear"),
    ],
)
def test_what_does_not_fit_together(antispam: dict[str, Any], antivirus: dict[str, Any], says: str) -> None:
    (paragraph,) = said(antispam, antivirus)
    assert says in paragraph


@pytest.mark.parametrize(
    "address", ["https://rspamd.example.com", "http://127.0.0.1:11333", "http://[::1]:11333", "unix:/run/rspamd.sock"]
)
def test_passwords_that_nobody_else_hears(address: str) -> None:
    assert said({"rspamd": {"api_key": "x", "address": address}}, {}) == []
