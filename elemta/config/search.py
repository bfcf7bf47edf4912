"""The search for the configuration's file.

What is not here: reading its JSON (`config.document`). The places, in their order: what the command line names, what
`ELEMTA_CONFIG` or `ELEMTA_CONFIG_PATH` names, `./elemta.conf`, `./config/elemta.conf`, `../config/elemta.conf`,
`$HOME/.elemta.conf`, `/etc/elemta/elemta.conf`. A file that was named must be there; else the defaults hold.
Failure raised: `ConfigError` for a file that cannot be read.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import frozen

from elemta.config.problems import ConfigError, Problem

#: Octets of a configuration file. A thousand routes are a tenth of it; more is a wrong file.
MOST_FILE_OCTETS = 1024 * 1024

_NAMED_BY = ("ELEMTA_CONFIG", "ELEMTA_CONFIG_PATH")


@frozen
class Source:
    """The file that was found, under the name a person would write, with its text."""

    name: str
    text: str
    #: The permission bits of the file.
    mode: int


def find_source(named: str | None, environ: Mapping[str, str], *, cwd: Path) -> Source | None:
    """The configuration's file, None when there is none. Raises `ConfigError`."""
    if named is not None:
        return _read(named, cwd / named, by="-c")
    for variable in _NAMED_BY:
        if environ.get(variable):
            return _read(environ[variable], cwd / environ[variable], by=variable)
    for name, path in places(environ, cwd):
        # Not `exists`: a file in a folder that we may not enter must be an error, not the defaults.
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            pass
        return _read(name, path)
    return None


def places(environ: Mapping[str, str], cwd: Path) -> Iterator[tuple[str, Path]]:
    """Where a file is looked for that nobody named: its name for people, its path."""
    for name in ("./elemta.conf", "./config/elemta.conf", "../config/elemta.conf"):
        yield name, cwd / name
    if environ.get("HOME"):
        home = Path(environ["HOME"], ".elemta.conf")
        yield str(home), home
    yield "/etc/elemta/elemta.conf", Path("/etc/elemta/elemta.conf")


def _read(name: str, path: Path, *, by: str = "") -> Source:
    named = f" ({by} names it)" if by else ""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_FILE_OCTETS + 1)
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise _unreadable(name, f"this file cannot be read{named}: {reason}.") from None
    if len(content) > MOST_FILE_OCTETS:
        raise _unreadable(name, f"this file{named} has more than {MOST_FILE_OCTETS} octets; a configuration has fewer.")
    try:
        return Source(name, content.decode("utf-8-sig"), mode)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _unreadable(name, f"line {line} of this file{named} is not UTF-8, which JSON is written in.") from None


def _unreadable(name: str, says: str) -> ConfigError:
    return ConfigError([Problem(key="", where=name, says=says)])
