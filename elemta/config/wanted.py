"""The plugins that a configuration asks for.

What is not here: finding or making them (`plugins.loader`), or what the keys mean together (`config.scanner_checks`).
Nothing of the plugins is imported, so that who only asks whether there are some pays for none.
"""

from collections.abc import Sequence
from typing import Final

from attrs import frozen

from elemta.config.plugins import PluginEntry, PluginFailure
from elemta.config.scanners import AntispamSection, AntivirusSection
from elemta.config.sections import Config

#: Seconds that the chain gives a scanner beyond its own time, so that it is the scanner who says what was too slow.
DEADLINE_MARGIN_SECONDS: Final = 2.0


@frozen
class Wanted:
    """One plugin that the configuration asks for. `settings` are JSON, or the section itself where it has its own."""

    entry: PluginEntry
    #: Where its settings stand in the configuration, for what is said about them.
    path: str
    settings: object = None


def wanted_plugins(config: Config) -> list[Wanted]:
    """Every plugin that the configuration turns on, be it by a section of its own."""
    listed = wanted_of(config.plugins.plugins) if config.plugins.enabled else []
    own = wanted_scanners(config.antispam, config.antivirus)
    for name, section in (("ratelimit", config.rate_limiter), ("rules", config.rules)):
        if section.enabled:
            own.append(Wanted(PluginEntry(name), name if name == "rules" else "rate_limiter", section))
    return [*own, *listed]


def wanted_of(entries: Sequence[PluginEntry]) -> list[Wanted]:
    """What the list of the configuration asks for."""
    return [Wanted(entry, f"plugins.plugins[{index}]") for index, entry in enumerate(entries) if entry.enabled]


def wanted_scanners(antispam: AntispamSection, antivirus: AntivirusSection) -> list[Wanted]:
    """The scanners that are switched on, with their deadlines and their policies. Their names are entry points."""
    found: list[Wanted] = []
    if antivirus.enabled and antivirus.clamav.enabled:
        entry = _scanner("clamav", antivirus.clamav.timeout, antivirus.failure)
        found.append(Wanted(entry, "antivirus.clamav", antivirus))
    if antispam.enabled:
        for name, own in (("rspamd", antispam.rspamd), ("spamassassin", antispam.spamassassin)):
            if own.enabled:
                entry = _scanner(name, own.timeout, antispam.on_failure)
                found.append(Wanted(entry, f"antispam.{name}", antispam))
    return found


def _scanner(name: str, seconds: float, failure: PluginFailure) -> PluginEntry:
    return PluginEntry(name, deadline=seconds + DEADLINE_MARGIN_SECONDS, on_error=failure)
