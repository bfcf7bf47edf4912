"""The pass over a document that leaves only the keys of the sections.

What is not here: the tables (`config.known`). What stays in the document afterwards works, or is unknown.
"""

from collections.abc import Iterable, Sequence

from elemta.config.document import Path, dotted
from elemta.config.keys import sections
from elemta.config.known import MOVED, Known, known_keys, known_sections
from elemta.config.problems import Report, describe, did_you_mean


def move_keys(report: Report) -> None:
    """Read each moved key under its present name. Written under both names, it is a problem."""
    document = report.document
    for path, moved in MOVED.items():
        if not document.has(path):
            continue
        if document.has(moved.target):
            report.error(path, f"the same is written as {dotted(moved.target)}; remove one of them.")
            document.pop(path)
            continue
        if not moved.silent:
            report.warn(path, f"read as {dotted(moved.target)}; write that instead.")
        document.move(path, moved.target)


def drop_known_keys(report: Report) -> None:
    """Take out what is known and does nothing, with one notice for those keys of a section that share their reason."""
    document = report.document
    groups: dict[tuple[Path, Known], list[Path]] = {}
    for path, known in known_keys().items():
        if document.has(path):
            groups.setdefault((path[:-1], known), []).append(path)
    for (parent, known), paths in groups.items():
        _notice(report, parent=parent, known=known, paths=paths)
    for paths in groups.values():
        for path in paths:
            document.pop(path)
    _drop_known_sections(report)


def _notice(report: Report, *, parent: Path, known: Known, paths: Sequence[Path]) -> None:
    if len(paths) == 1:
        report.warn(paths[0], known.says())
        return
    names = ", ".join(str(path[-1]) for path in paths)
    key = f"{dotted(parent)}.{{{names}}}" if parent else names
    report.warn(paths[0], known.says(several=True), key=key)


def _drop_known_sections(report: Report) -> None:
    """Take out the sections that hold known keys alone; what is left in one of them is unknown."""
    document = report.document
    ours = sections()
    for path in sorted(known_sections() - ours, key=len, reverse=True):
        if not document.has(path):
            continue
        left = document.find(path)
        if isinstance(left, dict):
            names = {str(known[len(path)]) for known in (*known_keys(), *MOVED) if known[: len(path)] == path}
            for name in left:
                if (*path, name) not in known_sections():
                    report.error((*path, name), unknown_key(name, names))
        else:
            report.error(path, f"found {describe(left)}, expected an object with keys of its own.")
        document.pop(path)


def unknown_key(name: str, candidates: Iterable[str]) -> str:
    """The sentence about a key that nobody knows."""
    return f"there is no such key.{did_you_mean(name, candidates)}"
