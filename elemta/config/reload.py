"""What of a changed configuration a running server takes over.

What is not here: reading it again, or taking it over (`supervisor`). Pure, and nothing is raised: both configurations
are sound.
"""

from collections.abc import Sequence
from typing import Any, Final

import attrs
from attrs import evolve, frozen

from elemta.config.sections import Config

#: Keys that hold until the next start: what a process is bound to, or has made once for all that it serves.
AT_START: Final = frozenset(
    {
        "dev_mode",
        "hostname",
        "listen_addr",
        "listeners",
        "queue_dir",
        "processes",
        "max_workers",
        "priority_ageing",
        "storage",
        "web",
        "logging",
        "auth",
        "tls",
    }
)
#: As above, of sections whose other keys are taken over.
PARTS_AT_START: Final = {"limits": frozenset({"message_memory"})}


@frozen
class Reloaded:
    """What holds from now on, and how it differs from before."""

    config: Config
    #: Keys whose new values hold.
    changed: Sequence[str]
    #: Keys whose new values hold after a new start.
    at_start: Sequence[str]
    #: What a person should know of the configuration that was read, a paragraph each.
    warnings: Sequence[str] = ()


def take_over(running: Config, wanted: Config) -> Reloaded:
    """The configuration that a server which runs on `running` has when its file says `wanted`."""
    changed: list[str] = []
    at_start: list[str] = []
    kept: dict[str, Any] = {}
    for field in attrs.fields(Config):
        old, new = getattr(running, field.name), getattr(wanted, field.name)
        if old == new:
            continue
        if field.name in AT_START:
            kept[field.name] = old
            at_start.append(field.name)
            continue
        parts = {
            part: getattr(old, part)
            for part in PARTS_AT_START.get(field.name, ())
            if getattr(old, part) != getattr(new, part)
        }
        at_start += [f"{field.name}.{part}" for part in parts]
        kept[field.name] = evolve(new, **parts) if parts else new
        if kept[field.name] != old:
            changed.append(field.name)
    return Reloaded(evolve(wanted, **kept), changed, at_start)
