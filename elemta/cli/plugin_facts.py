"""What is known of one plugin: where it comes from, what it is asked, what can be set.

What is not here: what is printed of it (`cli.plugin`). A plugin's own code runs here as it is imported; whatever it
does becomes a sentence in `error`.
"""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from attrs import evolve, field, frozen

from elemta.config.document import dotted
from elemta.config.keys import Key, Shape, keys_of
from elemta.config.sections import Config
from elemta.config.show import MASK
from elemta.config.structure import unstructure
from elemta.config.wanted import Wanted, wanted_plugins
from elemta.plugins.api import Host, OnError, Plugin, Stage
from elemta.plugins.loader import Found, PluginsUnusable, load_plugins, shape_problems, words_of
from elemta.supervisor.plugin_check import every_plugin, idle_hosts


@frozen
class Setting:
    """One key of a plugin's settings. `value` is None where the configuration does not turn the plugin on."""

    key: str
    kind: str
    default: str
    value: str | None
    about: str


@frozen
class PluginFacts:
    """One plugin. `error` says why it cannot be used; the facts behind it are then the configuration's or empty."""

    name: str
    enabled: bool
    where: str = ""
    about: str = ""
    priority: int | None = None
    deadline: float | None = None
    on_error: OnError | None = None
    blocking: bool = False
    stages: tuple[Stage, ...] = ()
    settings: tuple[Setting, ...] = field(default=(), repr=False)
    error: str = ""


def all_facts(config: Config) -> tuple[list[PluginFacts], tuple[str, ...]]:
    """Every plugin there is and every one that is asked for, by name; and what is wrong with the folder."""
    known, problems = every_plugin(config)
    wanted = {one.entry.name: one for one in wanted_plugins(config)}
    names = sorted({*known, *wanted})
    host_of = idle_hosts(config)
    return [_facts(name, known, wanted.get(name), host_of) for name in names], problems


def _facts(name: str, known: Mapping[str, Found], wanted: Wanted | None, host_of: Callable[[str], Host]) -> PluginFacts:
    found = known.get(name if wanted is None else wanted.entry.kind)
    facts = PluginFacts(name, wanted is not None, "" if found is None else found.where)
    try:
        facts = facts if found is None else _of_class(facts, found.load())
        return facts if wanted is None else _as_wanted(facts, known, wanted, host_of)
    except PluginsUnusable as error:
        return evolve(facts, error=" ".join(error.problems))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # its own code runs here
        return evolve(facts, error=words_of(error, facts.where))


def _of_class(facts: PluginFacts, plugin: type[Plugin]) -> PluginFacts:
    """What the class says of itself."""
    problems = list(shape_problems(plugin))
    if problems:
        return evolve(facts, about=plugin.about, error=" ".join(problems))
    return evolve(
        facts,
        about=plugin.about,
        priority=plugin.priority,
        deadline=plugin.deadline,
        on_error=plugin.on_error,
        blocking=plugin.blocking,
        stages=_stages(plugin, plugin.stages),
        settings=settings_of(plugin),
    )


def _as_wanted(
    facts: PluginFacts, known: Mapping[str, Found], wanted: Wanted, host_of: Callable[[str], Host]
) -> PluginFacts:
    """What holds with the configuration: made as the server makes it. Raises `PluginsUnusable`."""
    (member,) = load_plugins([wanted], known, host_of)
    return evolve(
        facts,
        priority=member.priority,
        deadline=member.deadline,
        on_error=member.on_error,
        stages=_stages(type(member.plugin), member.plugin.stages),
        settings=settings_of(type(member.plugin), member.plugin.settings),
    )


def _stages(plugin: type[Plugin], wanted: Collection[Stage] | None) -> tuple[Stage, ...]:
    """Where it is asked: the hooks that it overrides, but for those that it knows to have nothing to do."""
    return tuple(
        stage
        for stage in (Stage if wanted is None else sorted(wanted, key=list(Stage).index))
        if getattr(plugin, f"on_{stage.value}") is not getattr(Plugin, f"on_{stage.value}")
    )


def settings_of(plugin: type[Plugin], values: object = None) -> tuple[Setting, ...]:
    """The keys of its settings; `values` are the settings that it was made with."""
    section = plugin.settings_class
    if section is None:
        return ()
    return tuple(
        Setting(
            key=dotted(key.path),
            kind=_kind(key.shape),
            default=_default(key),
            value=None if not isinstance(values, section) else _value(key, values),
            about=key.about,
        )
        for key in keys_of(section)
    )


def _kind(shape: Shape) -> str:
    if shape.item is not None:
        inner = "objects" if shape.item.section is not None else _kind(shape.item)
        return f"a list of {inner}" if shape.item.section is not None else f"a list; each {inner}"
    return shape.expected


def _default(key: Key) -> str:
    if key.required:
        return "must be given"
    return "none" if key.default is None else json.dumps(unstructure(key.default), default=str)


def _value(key: Key, values: Any) -> str:
    item = None if key.shape.item is None else key.shape.item.section
    if key.secret or (item is not None and any(each.secret for each in keys_of(item))):
        return MASK
    for step in key.path:
        values = getattr(values, str(step))
    return json.dumps(unstructure(values), default=str)
