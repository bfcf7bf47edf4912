"""The one door to a configuration: the file, the environment, the command line, in this order of rising weight.

What is not here: the pieces of the road, each in its own module, and printing (`cli.config`).
Failure raised: `ConfigError`, with every problem at once.
"""

import math
import stat
from collections.abc import Callable, Mapping
from pathlib import Path as FilePath

from attrs import frozen

from elemta.config.authorities import trouble_with_authorities
from elemta.config.checks import check
from elemta.config.document import (
    Document,
    JsonError,
    Origin,
    Path,
    Rank,
    dotted,
    read_document,
)
from elemta.config.environment import apply_environment
from elemta.config.facts import Facts
from elemta.config.keys import EACH, all_keys, describe_at, expected_at, listed_secret_files, secret_files
from elemta.config.known import known_keys, known_sections
from elemta.config.problems import ConfigError, Notice, Problem, Report
from elemta.config.search import Source, find_source
from elemta.config.secrets import read_secrets, warn_of_readable_secrets
from elemta.config.sections import Config
from elemta.config.structure import Finding, Findings, structure
from elemta.config.unsupported import drop_known_keys, move_keys, unknown_key


@frozen
class Loaded:
    """A configuration that may be started."""

    config: Config
    warnings: tuple[Notice, ...]
    #: Where each key's value was written, by its path as people read it (`web.listen_addr`).
    origins: Mapping[str, Origin]
    #: The file that was read, None when there is none.
    source: str | None


def load_config(
    path: str | None,
    environ: Mapping[str, str],
    *,
    cwd: FilePath,
    overrides: Mapping[str, object] | None = None,
) -> Loaded:
    """Load the configuration.

    `path` is the file that the command line names, if any. `overrides` are values of the command line by their keys
    (`{"web.listen_addr": "127.0.0.1:0"}`). Raises `ConfigError`; `KeyError` for an override that is no key.
    """
    source = find_source(path, environ, cwd=cwd)
    report = Report(_read(source) if source is not None else Document())
    report.document.pop(("$schema",))  # names our schema to an editor, RFC 8259 knows nothing of it
    move_keys(report)
    if source is not None:
        warn_of_readable_secrets(report, name=source.name, mode=source.mode)
    _warn_of_two_names(report, path, environ)
    apply_environment(report, environ)
    _apply_overrides(report, overrides or {})
    drop_known_keys(report)
    read_secrets(report, cwd=cwd)
    config = _structure(report, _facts(cwd))
    if report.problems:
        raise ConfigError(sorted(report.problems, key=_place), report.notices)
    origins = {dotted(key.path): report.document.origin_of(key.path) for key in all_keys()}
    return Loaded(config, tuple(report.notices), origins, source.name if source is not None else None)


def _read(source: Source) -> Document:
    try:
        return read_document(source.text, source.name)
    except JsonError as error:
        where = f"{source.name}:{error.line}:{error.column}"
        problem = Problem(key="", where=where, says=f"{error.says}.", line=error.line, column=error.column)
        raise ConfigError([problem]) from None


def _warn_of_two_names(report: Report, path: str | None, environ: Mapping[str, str]) -> None:
    first, second = environ.get("ELEMTA_CONFIG"), environ.get("ELEMTA_CONFIG_PATH")
    if path is None and first and second and first != second:
        says = "not read: ELEMTA_CONFIG names another file."
        report.notices.append(Notice(key="", where="ELEMTA_CONFIG_PATH", says=says))


def _apply_overrides(report: Report, overrides: Mapping[str, object]) -> None:
    known = {dotted(key.path): key.path for key in all_keys()}
    for name, value in overrides.items():
        report.document.put(known[name], value, origin=Origin(Rank.COMMAND_LINE, "command line"))


def _structure(report: Report, facts: Facts) -> Config:
    """Make the sections, then look at them as a whole.

    Where values do not fit, what can be said about the sound keys is said all the same: a person mends all at once.
    """
    document = report.document
    try:
        config = structure(document.tree)
    except Findings as error:
        for finding in error.found:
            report.error(finding.path, _says(document, finding))
        config = structure({key: value for key, value in document.tree.items() if key not in report.broken})
    check(config, report, facts=facts, broken=frozenset(report.broken))
    return config


def _facts(cwd: FilePath) -> Facts:
    return Facts(
        exists=lambda name: _is_there(FilePath(cwd, name), stat.S_ISREG),
        is_folder=lambda name: _is_there(FilePath(cwd, name), stat.S_ISDIR),
        authorities=lambda name: trouble_with_authorities(name, cwd=cwd),
        open_to_others=lambda name: _is_open_to_others(FilePath(cwd, name)),
    )


def _is_there(path: FilePath, is_kind: Callable[[int], bool]) -> bool:
    # Not `is_file`, which from Python 3.14 on says False where it may not look.
    try:
        return is_kind(path.stat().st_mode)
    except PermissionError:
        # Whoever runs a command need not be whoever runs the server, which says so at its start.
        return True
    except (OSError, ValueError):
        return False


def _is_open_to_others(path: FilePath) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _says(document: Document, finding: Finding) -> str:
    path = finding.path
    if finding.known is not None:
        return unknown_key(str(path[-1]), [*finding.known, *_known_beside(path[:-1])])
    if finding.missing:
        return f"this key is missing; expected {expected_at(path)}."
    return f"found {describe_at(path, document.find(path))}, expected {finding.expected}. {finding.advice}".rstrip()


def _known_beside(parent: Path) -> list[str]:
    pattern = tuple(EACH if isinstance(step, int) else step for step in parent)
    paths = (*known_keys(), *known_sections(), *secret_files(), *listed_secret_files())
    return [str(path[-1]) for path in paths if path[:-1] == pattern]


def _place(problem: Problem) -> tuple[float, int, str]:
    """Problems in the order of the file, then those of the environment and the command line."""
    if problem.line is None or problem.column is None:
        return (math.inf, 0, problem.where)
    return (problem.line, problem.column, "")
