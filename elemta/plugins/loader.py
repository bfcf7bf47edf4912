"""Finds plugins.

A plugin is known by a name: an entry point of the group `elemta.plugins` (how packages, Elemta's own among them, offer
theirs), or a file `NAME.py` in the folder of the configuration. What is not here: calling them (`plugins.chain`).
Failure raised: `PluginsUnusable`, with a paragraph for each thing that is wrong.
"""

import importlib.util
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from inspect import iscoroutinefunction
from math import inf
from pathlib import Path
from traceback import walk_tb
from types import CodeType, ModuleType
from typing import Any, Final

import attrs
from attrs import frozen

from elemta.config.document import dotted
from elemta.config.keys import shape_of
from elemta.config.problems import ConfigError
from elemta.config.structure import Findings, structure_as
from elemta.config.wanted import Wanted
from elemta.plugins.api import Host, OnError, Plugin, Stage
from elemta.plugins.chain import Member

#: The group of entry points that packages offer plugins under.
GROUP: Final = "elemta.plugins"
#: How files in the folder begin that are no plugins: those that are put aside, and tests.
NO_PLUGINS: Final = ("_", "test_", "conftest.")


class PluginsUnusable(Exception):
    """Plugins cannot be loaded; `problems` says why, a paragraph each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n\n".join(problems))
        self.problems = tuple(problems)


@frozen
class Found:
    """One plugin that could be loaded. `where` is the package or the file that it comes from."""

    name: str
    where: str
    load: Callable[[], type[Plugin]]


def known_plugins(folder: Path | None) -> dict[str, Found]:
    """Every plugin by its name; a file in the folder stands before a package's of the same name.

    Nothing is imported. Raises `PluginsUnusable` for a folder that others may write to.
    """
    found: dict[str, Found] = {}
    for point in entry_points(group=GROUP):
        package, other = _package_of(point), found.get(point.name)
        if other is None or other.where == package:
            found[point.name] = Found(point.name, package, partial(_from_point, point))
        else:
            where = f"{other.where}, {package}"
            found[point.name] = Found(point.name, where, partial(_refuse_choice, point.name, where))
    if folder is not None and folder.is_dir():
        _trust(folder)
        for path in sorted(folder.glob("*.py")):
            if not path.name.startswith(NO_PLUGINS):
                found[path.stem] = Found(path.stem, str(path), partial(_from_file, path))
    return found


def _package_of(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _refuse_choice(name: str, packages: str) -> type[Plugin]:
    """Which of several packages comes first is chance."""
    raise PluginsUnusable([f'several packages offer a plugin "{name}": {packages}. Uninstall all but one of them.'])


def _trust(path: Path) -> None:
    """Refuse what somebody else may have put there: it would run with our rights."""
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        says = (
            f"{path}: others than its owner may write here, or it belongs to another user: no plugin is loaded from it."
        )
        raise PluginsUnusable([f'{says} Run "chmod go-w {path}", and let it belong to root or to the server\'s user.'])


def _from_point(point: EntryPoint) -> type[Plugin]:
    return _class_in(point.load(), point.value)


class _SourceAlone(SourceFileLoader):
    """Compiles the source: bytecode beside it may be of an earlier one, or whosever may write to that folder."""

    def get_code(self, fullname: str) -> CodeType:
        """The code of the module."""
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def _from_file(path: Path) -> type[Plugin]:
    _trust(path)
    _trust(path.resolve().parent)  # where a link leads
    name = f"elemta_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_SourceAlone(name, str(path.absolute())))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        return _class_in(module, str(path))
    except BaseException:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before  # a running server goes on with it
        raise


def _class_in(found: object, where: str) -> type[Plugin]:
    """The plugin's class: itself, or the only one that a module defines."""
    if isinstance(found, type) and issubclass(found, Plugin):
        return found
    if not isinstance(found, ModuleType):
        raise ImportError(f"{where} is no class derived from Plugin, and no module")
    classes = [
        one
        for one in vars(found).values()
        if isinstance(one, type) and issubclass(one, Plugin) and one.__module__ == found.__name__
    ]
    if len(classes) != 1:
        raise ImportError(f"{where} defines {len(classes)} classes derived from Plugin; a module of one is expected")
    return classes[0]


# ---- making them ---------------------------------------------------------------------------------


def load_plugins(wanted: Sequence[Wanted], known: Mapping[str, Found], host_of: Callable[[str], Host]) -> list[Member]:
    """Make the plugins, in the order of the configuration. Raises `PluginsUnusable`."""
    members: list[Member] = []
    problems: list[str] = []
    for one in wanted:
        name = one.entry.name
        if any(member.name == name for member in members):
            problems.append(f"{one.path}: the plugin {name!r} stands twice in the configuration.")
            continue
        try:
            members.append(_member(one, _found(one.entry.kind, known).load(), host_of))
        except PluginsUnusable as error:
            problems += [f"{one.path}: {problem}" for problem in error.problems]
        except ConfigError as error:  # files that belong to its settings: each problem says where it stands
            problems += [str(problem) for problem in error.problems]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: ASYNC103  # its own code runs here, and nothing is awaited
            file = known[one.entry.kind].where
            problems.append(f"{one.path}: the plugin {name!r} cannot be loaded: {words_of(error, file)}")
    if problems:
        raise PluginsUnusable(problems)
    return members


def words_of(error: BaseException, file: str) -> str:
    """What a plugin's own code raised, with the line of its `file`: who wrote it reads this, and no traceback."""
    path = os.path.abspath(file)
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == path]
    try:
        text = str(error)
    except Exception:  # its words are code too
        text = ""
    if isinstance(error, SyntaxError) and error.filename == path:
        text, lines = error.msg, [error.lineno or 1]
    says = f"{type(error).__name__}: {text}".removesuffix(": ")
    if lines:
        return f"{says} ({file}, line {lines[-1]})"
    return says if file in says else f"{says} ({file})"


def _found(name: str, known: Mapping[str, Found]) -> Found:
    found = known.get(name)
    if found is None:
        close = get_close_matches(name, known, n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ' "elemta plugin list" shows those that there are.'
        raise PluginsUnusable([f'there is no plugin named "{name}".{hint}'])
    return found


def _member(one: Wanted, plugin_class: type[Plugin], host_of: Callable[[str], Host]) -> Member:
    entry = one.entry
    problems = [*shape_problems(plugin_class)]
    if problems:
        raise PluginsUnusable([f'the plugin "{entry.name}": {problem}' for problem in problems])
    plugin = plugin_class(host_of(entry.name), _settings(one, plugin_class))
    return Member(
        name=entry.name,
        plugin=plugin,
        priority=plugin.priority if entry.priority is None else entry.priority,
        deadline=plugin.deadline if entry.deadline is None else entry.deadline,
        on_error=plugin.on_error if entry.on_error is None else OnError(entry.on_error.value),
    )


def _settings(one: Wanted, plugin_class: type[Plugin]) -> object:
    """The plugin's own section. Raises `PluginsUnusable`, with every value that does not fit."""
    section = plugin_class.settings_class
    if one.settings is not None:
        return one.settings
    if section is None:
        if one.entry.settings:
            raise PluginsUnusable([f'the plugin "{one.entry.name}" has no settings; take "settings" away.'])
        return None
    try:
        return structure_as(section, dict(one.entry.settings))
    except Findings as error:
        raise PluginsUnusable(
            [f"settings.{dotted(finding.path)}: {_says(finding)}" for finding in error.found]
        ) from None


def _says(finding: Any) -> str:
    if finding.known is not None:
        close = get_close_matches(str(finding.path[-1]), finding.known, n=1)
        return "there is no such key." + (f' Did you mean "{close[0]}"?' if close else "")
    if finding.missing:
        return "this key is missing."
    return f"expected {finding.expected}. {finding.advice}".rstrip()


def shape_problems(plugin_class: type[Plugin]) -> Iterator[str]:
    """What is wrong with a class that can be seen without running it."""
    yield from _figure_problems(plugin_class)
    known = {f"on_{stage.value}" for stage in Stage}
    for name in dir(plugin_class):
        if name.startswith("on_") and name not in known and name != "on_error":
            close = get_close_matches(name, known, n=1)
            yield f"there is no hook {name}." + (f" Did you mean {close[0]}?" if close else "")
    for name in sorted(known):
        method = getattr(plugin_class, name)
        if method is getattr(Plugin, name):
            continue
        if plugin_class.blocking and iscoroutinefunction(method):
            yield f"it is blocking, so {name} is a plain def, not an async one."
        elif not plugin_class.blocking and not iscoroutinefunction(method):
            yield f"{name} is no async def; where it blocks, let the class say blocking = True."
    yield from _settings_problems(plugin_class.settings_class)


def _figure_problems(plugin_class: type[Plugin]) -> Iterator[str]:
    """What is wrong with what the configuration may say otherwise."""
    priority, deadline, on_error = plugin_class.priority, plugin_class.deadline, plugin_class.on_error
    if not isinstance(priority, int):
        yield f"its priority is a whole number, not {priority!r}."
    if not isinstance(deadline, int | float) or not 0 < deadline < inf:
        yield f"its deadline is a number of seconds above 0, not {deadline!r}."
    if not isinstance(on_error, OnError):
        yield f"its on_error is OnError.ACCEPT, OnError.DEFER or OnError.REJECT, not {on_error!r}."


def _settings_problems(section: type | None) -> Iterator[str]:
    """Why no settings can be made of a class: they are checked value by value, and shown."""
    if section is None:
        return
    if not attrs.has(section):
        yield "its settings_class is no attrs class."
        return
    for attribute in attrs.fields(section):
        if not _is_checkable(attribute.type):
            yield (
                f"nobody can check its setting {attribute.name}: annotate it with bool, str, an enum, or "
                "Annotated[…] with a kind of elemta.config.kinds; without `from __future__ import annotations`."
            )


def _is_checkable(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return False
    try:
        shape = shape_of(annotation)
    except (TypeError, StopIteration, IndexError):
        return False
    while shape.item is not None:
        shape = shape.item
    return shape.section is None or attrs.has(shape.section)
