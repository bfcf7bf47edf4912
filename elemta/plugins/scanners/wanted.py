"""Which scanners the configuration asks for.

What is not here: making them (`plugins.loader`), or what the keys mean together (`config.scanner_checks`).
"""

from typing import Final

from elemta.config.plugins import PluginEntry, PluginFailure
from elemta.config.scanners import AntispamSection, AntivirusSection
from elemta.plugins.loader import Wanted

#: Seconds that the chain gives a scanner beyond its own time, so that it is the scanner who says what was too slow.
DEADLINE_MARGIN_SECONDS: Final = 2.0


def wanted_scanners(antispam: AntispamSection, antivirus: AntivirusSection) -> list[Wanted]:
    """The scanners that are switched on, with their deadlines and their policies. Their names are entry points."""
    found: list[Wanted] = []
    if antivirus.enabled and antivirus.clamav.enabled:
        entry = _entry("clamav", antivirus.clamav.timeout, antivirus.failure)
        found.append(Wanted(entry, "antivirus.clamav", antivirus))
    if antispam.enabled:
        for name, own in (("rspamd", antispam.rspamd), ("spamassassin", antispam.spamassassin)):
            if own.enabled:
                entry = _entry(name, own.timeout, antispam.on_failure)
                found.append(Wanted(entry, f"antispam.{name}", antispam))
    return found


def _entry(name: str, seconds: float, failure: PluginFailure) -> PluginEntry:
    return PluginEntry(name, deadline=seconds + DEADLINE_MARGIN_SECONDS, on_error=failure)
