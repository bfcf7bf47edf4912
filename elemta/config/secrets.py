"""Secrets that come from files.

Every secret key `x` has a twin `x_file` that names a file with its value, in the configuration's file and in the
environment; so have those of the elements of a list, in the file. What is not here: masking (`config.show`). The value
is the file's text without its last line end.
"""

import os
import stat
from pathlib import Path

from elemta.config import document
from elemta.config.document import Origin, dotted
from elemta.config.keys import EACH, all_keys, listed_secret_files, listed_secrets, secret_files
from elemta.config.problems import Report, describe

#: Octets of a file with a secret: the longest ones, private keys in PEM, have a few thousand.
MOST_SECRET_OCTETS = 65_536


def read_secrets(report: Report, *, cwd: Path) -> None:
    """Put each secret that a file holds in its place. The higher origin of a secret and its file wins."""
    tree = report.document
    pairs = [*secret_files().items()]
    for pattern, secret in listed_secret_files().items():
        pairs += zip(_in_lists(tree, pattern), _in_lists(tree, secret), strict=True)
    for named, target in pairs:
        if not tree.has(named):
            continue
        origin = tree.origin_of(named)
        name = tree.pop(named)
        rival = tree.origin_of(target) if tree.has(target) else None
        if rival is not None and rival.rank == origin.rank:
            _refuse(report, named, origin, f"the same secret is written as {dotted(target)}; remove one of them.")
        elif rival is None or rival.rank < origin.rank:
            _read(report, named, name=name, target=target, origin=origin, cwd=cwd)


def _in_lists(tree: document.Document, pattern: document.Path) -> list[document.Path]:
    """A path with `EACH` in it for every element that is there."""
    if EACH not in pattern:
        return [pattern]
    at = pattern.index(EACH)
    elements = tree.find(pattern[:at])
    count = len(elements) if isinstance(elements, list) else 0
    return [path for index in range(count) for path in _in_lists(tree, (*pattern[:at], index, *pattern[at + 1 :]))]


def _refuse(report: Report, named: document.Path, origin: Origin, says: str) -> None:
    report.document.put(named, None, origin=origin)  # so that the report says where it stands
    report.error(named, says)
    report.document.pop(named)


def _read(
    report: Report, named: document.Path, *, name: object, target: document.Path, origin: Origin, cwd: Path
) -> None:
    if not isinstance(name, str) or not name or not name.isprintable():
        _refuse(report, named, origin, f"found {describe(name)}, expected the name of a file.")
        return
    try:
        with Path(cwd, name).open("rb") as file:
            content = file.read(MOST_SECRET_OCTETS + 1)
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        reason = error.strerror or type(error).__name__
        _refuse(report, named, origin, f'the file "{name}" cannot be read: {reason}.')
        return
    try:
        text = content.decode()
    except UnicodeDecodeError:
        _refuse(report, named, origin, f'the file "{name}" holds no text in UTF-8.')
        return
    if len(content) > MOST_SECRET_OCTETS:
        _refuse(report, named, origin, f'the file "{name}" has more than {MOST_SECRET_OCTETS} octets.')
        return
    report.document.put(target, text.removesuffix("\n").removesuffix("\r"), origin=origin)
    if mode & stat.S_IROTH:
        report.warn(target, f"everyone on this machine can read {name}; run: chmod o-r {name}")


def warn_of_readable_secrets(report: Report, *, name: str, mode: int) -> None:
    """Say so when a configuration file that everyone can read holds a secret."""
    if not mode & stat.S_IROTH:
        return
    paths = [key.path for key in all_keys() if key.secret]
    for pattern in listed_secrets():
        paths += _in_lists(report.document, pattern)
    for path in paths:
        if report.document.find(path):
            report.warn(path, f"everyone on this machine can read this secret; run: chmod o-r {name}")
