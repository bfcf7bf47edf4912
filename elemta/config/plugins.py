"""The section that names plugins.

What is not here: what a plugin's own settings may be (`plugins.loader` checks them against its class), or where plugins
are found.
"""

import enum
import json
from collections.abc import Mapping
from typing import Annotated, Any

from attrs import field, frozen

from elemta.config.kinds import About, Bool, Duration, Kind, Unfit, Whole, Words
from elemta.config.problems import did_you_mean


class PluginFailure(enum.Enum):
    """What becomes of a mail whose plugin failed; `plugins.api.OnError` in the words of the configuration."""

    ACCEPT = "accept"
    DEFER = "defer"
    REJECT = "reject"


@frozen
class PluginEntry:
    """One plugin. What is None is as the plugin itself says."""

    name: str
    enabled: bool = True
    priority: int | None = None
    #: Seconds for one call.
    deadline: float | None = None
    on_error: PluginFailure | None = None
    settings: Mapping[str, object] = field(factory=dict, hash=False)
    #: Which plugin it is, where one stands here more than once under names of its own; empty: that of the name.
    plugin: str = ""

    @property
    def kind(self) -> str:
        """The name that the plugin itself is known by."""
        return self.plugin or self.name


#: The keys of an entry that is an object.
_KEYS = ("name", "plugin", "enabled", "priority", "deadline", "on_error", "settings")
_PRIORITY = Whole("points", -1000, 1000)
_DEADLINE = Duration()


@frozen
class PluginKind:
    """A plugin's name, or an object with its name and what differs from what it says itself."""

    expected: str = 'a plugin\'s name, or an object with "name", "priority", "deadline", "on_error", "settings"'

    def parse(self, value: object) -> PluginEntry:
        if isinstance(value, PluginEntry):
            return value
        if isinstance(value, str) and value.isprintable() and value:
            return PluginEntry(value)
        if not isinstance(value, dict):
            raise Unfit(self.expected)
        return self._entry(value)

    def _entry(self, value: dict[str, object]) -> PluginEntry:
        for key in value:
            if key not in _KEYS:
                raise Unfit(self.expected, f"It has no key {json.dumps(key)}.{did_you_mean(key, _KEYS)}")
        name, settings, kind = value.get("name"), value.get("settings", {}), value.get("plugin", "")
        if not isinstance(name, str) or not name or not name.isprintable():
            raise Unfit(self.expected, 'It needs a "name".')
        if not isinstance(kind, str) or not kind.isprintable():
            raise Unfit(self.expected, 'Its "plugin" is the name of a plugin.')
        if not isinstance(settings, dict):
            raise Unfit(self.expected, 'Its "settings" are an object.')
        if not isinstance(value.get("enabled", True), bool):
            raise Unfit(self.expected, 'Its "enabled" is true or false.')
        return PluginEntry(
            name,
            bool(value.get("enabled", True)),
            _own("priority", value, _PRIORITY),
            _own("deadline", value, _DEADLINE),
            _failure(value.get("on_error")),
            settings,
            kind,
        )

    def schema(self) -> dict[str, object]:
        choices = [choice.value for choice in PluginFailure]
        properties: dict[str, object] = {
            "name": {"type": "string", "minLength": 1},
            "plugin": {"type": "string"},
            "enabled": {"type": "boolean"},
            "priority": {"anyOf": [_PRIORITY.schema(), {"type": "null"}]},
            "deadline": {"anyOf": [_DEADLINE.schema(), {"type": "null"}]},
            "on_error": {"enum": [*choices, None]},
            "settings": {"type": "object"},
        }
        entry = {"type": "object", "properties": properties, "required": ["name"], "additionalProperties": False}
        return {"anyOf": [{"type": "string", "minLength": 1}, entry]}


def _own(key: str, value: dict[str, object], kind: Kind) -> Any:
    """The value of one key; None where it is not there."""
    if value.get(key) is None:
        return None
    try:
        return kind.parse(value[key])
    except Unfit as error:
        raise Unfit(PluginKind().expected, f'Its "{key}" is {error.expected}.') from None


def _failure(value: object) -> PluginFailure | None:
    if value is None:
        return None
    try:
        return PluginFailure(value)
    except ValueError:
        words = ", ".join(f'"{choice.value}"' for choice in PluginFailure)
        raise Unfit(PluginKind().expected, f'Its "on_error" is one of {words}.') from None


@frozen
class PluginsSection:
    """Which plugins there are."""

    enabled: Annotated[Bool, About("Whether the plugins below are loaded.")] = True
    plugin_path: Annotated[
        Words,
        About("A folder with plugins of your own, a file `NAME.py` each; nobody else may write there."),
    ] = "./plugins"
    plugins: Annotated[
        tuple[Annotated[PluginEntry, PluginKind()], ...],
        About(
            "The plugins by name, or as objects with `name`, `priority`, `deadline`, `on_error`, `settings`; `plugin` "
            "says which one it is where the name is another."
        ),
    ] = ()
