"""What the keys of scanners mean together.

What is not here: the check of one value (`config.kinds`), or asking a scanner (`plugins.scanners`).
"""

from itertools import pairwise
from urllib.parse import urlsplit

from elemta.config.addresses import ListenAddress
from elemta.config.document import Path
from elemta.config.problems import Report
from elemta.config.scanners import AntispamSection, AntivirusSection, RspamdSection, SpamassassinSection


def check_scanners(antispam: AntispamSection, antivirus: AntivirusSection, report: Report) -> None:
    """Check the sections `antispam` and `antivirus`."""
    spam_filters = {"spamassassin": antispam.spamassassin.enabled, "rspamd": antispam.rspamd.enabled}
    _switches("antispam", antispam.enabled, spam_filters, report=report)
    _switches("antivirus", antivirus.enabled, {"clamav": antivirus.clamav.enabled}, report=report)
    _order(("antispam", "spamassassin"), antispam.spamassassin, report)
    _order(("antispam", "rspamd"), antispam.rspamd, report)
    _password(antispam.rspamd, report)
    if antivirus.on_failure is not None and antivirus.reject_on_failure is not None:
        report.error(
            ("antivirus", "reject_on_failure"), "antivirus.on_failure says this already. Remove one of the two."
        )


def _switches(section: str, enabled: bool, scanners: dict[str, bool], *, report: Report) -> None:
    """A scanner works where its own switch and the one of its section are on."""
    if enabled and not any(scanners.values()):
        keys = " or ".join(f"{section}.{name}.enabled" for name in scanners)
        report.warn((section, "enabled"), f"no mail is scanned: set {keys} as well.")
    for name, is_on in scanners.items():
        if is_on and not enabled:
            report.warn((section, name, "enabled"), f"no mail is scanned: {section}.enabled is false. Set it to true.")


def _order(path: Path, section: SpamassassinSection | RspamdSection, report: Report) -> None:
    """A lower threshold for a harder verdict leaves the milder one without any mail."""
    keys = ("threshold", "quarantine_threshold", "reject_threshold")
    written = [(key, value) for key in keys if (value := getattr(section, key)) is not None]
    for (milder, less), (harder, more) in pairwise(written):
        if less > more:
            report.warn((*path, milder), f"{less:g} is never reached alone: {harder} is {more:g}. Exchange the two?")


def _password(rspamd: RspamdSection, report: Report) -> None:
    parts = urlsplit(rspamd.address)
    if rspamd.api_key is None or parts.scheme in ("https", "unix"):
        return
    if not ListenAddress(host=parts.hostname or "").is_loopback:
        report.warn(
            ("antispam", "rspamd", "api_key"),
            "it is sent in the clear, and so are the mails. Use an https:// address, or one on loopback.",
        )
