"""Keys from environment variables.

`ELEMTA_` with the upper-cased path joined by `_` stands for a key; the schema says which, so that `_` inside a name is
no puzzle.
What is not here: the search for the file (`config.search`), or secrets in files (`config.secrets`).
"""

import json
import re
from collections.abc import Mapping
from functools import cache

from elemta.config.document import Document, Origin, Path, Rank
from elemta.config.keys import Key, Shape, all_keys, describe_at, secret_files
from elemta.config.kinds import Flag, Unfit
from elemta.config.known import FOREIGN_VARIABLES, MOVED, known_keys
from elemta.config.problems import Notice, Problem, Report, did_you_mean

PREFIX = "ELEMTA_"

#: Variables of ours that are no keys: the file to read, the server to talk to, more words about errors.
RESERVED = frozenset(
    {"ELEMTA_CONFIG", "ELEMTA_CONFIG_PATH", "ELEMTA_CONNECT", "ELEMTA_DEBUG", "ELEMTA_SENDMAIL_SERVER"}
)
#: Variables of our own tests.
RESERVED_PREFIX = "ELEMTA_TEST_"

# Kubernetes gives every container the addresses of the services beside it, in the form of Docker's links: a service
# called `elemta` or `elemta-web` would look like keys of ours. The values tell them from a slip of the pen.
_SERVICE_LINKS = (
    (re.compile(r"\w+_SERVICE_HOST"), re.compile(r"[0-9a-fA-F.:]+")),
    (re.compile(r"\w+_SERVICE_PORT(_\w+)?"), re.compile(r"[0-9]+")),
    (re.compile(r"\w+_PORT(_[0-9]+_(TCP|UDP|SCTP))?"), re.compile(r"(tcp|udp|sctp)://.+")),
    (re.compile(r"\w+_PORT_[0-9]+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)"), re.compile(r".+")),
)


def variable_of(path: Path) -> str:
    """The name of the variable that stands for a key."""
    return PREFIX + "_".join(str(step) for step in path).upper()


@cache
def variables() -> dict[str, Path]:
    """Every variable that stands for a key, known ones without effect included, with the path it writes to.

    A name that two paths share, an old one and what it became, writes to the shorter, present one.
    """
    table = {variable_of(path): path for path in sorted(known_keys(), key=len, reverse=True)}
    for old, moved in MOVED.items():
        below = [key.path for key in all_keys() if key.path[: len(moved.target)] == moved.target]
        table |= {variable_of(old + path[len(moved.target) :]): path for path in below}
    table |= {variable_of(path): path for path in secret_files()}
    table |= {variable_of(key.path): key.path for key in all_keys()}
    return table


def apply_environment(report: Report, environ: Mapping[str, str]) -> None:
    """Write what the environment says over what the file says."""
    keys = {key.path: key for key in all_keys()}
    for name in sorted(environ):
        if name in FOREIGN_VARIABLES:
            says = f"this variable of the original is not read: {FOREIGN_VARIABLES[name]}."
            report.notices.append(Notice(key="", where=name, says=says))
            continue
        if not name.startswith(PREFIX) or name in RESERVED or name.startswith(RESERVED_PREFIX):
            continue
        path = variables().get(name)
        if path is not None:
            _apply(report, path, key=keys.get(path), name=name, text=environ[name])
        elif not _is_service_link(name, environ[name]):
            says = f"no key belongs to this variable.{_nearest(name)}"
            report.problems.append(Problem(key="", where=name, says=says))


def _apply(report: Report, path: Path, *, key: Key | None, name: str, text: str) -> None:
    document: Document = report.document
    value: object = text
    origin = Origin(Rank.ENVIRONMENT, name)
    if key is not None:
        try:
            value = decode(text, key.shape)
        except Unfit as error:
            document.put(path, text, origin=origin)  # so that the report names this variable
            found = describe_at(path, text)
            report.error(path, f"found {found}, expected {error.expected}. {error.advice}".rstrip())
            document.pop(path)
            return
    document.put(path, value, origin=origin)


def _nearest(name: str) -> str:
    # Without the prefix, which would make any two names look alike.
    near = did_you_mean(name.removeprefix(PREFIX), (known.removeprefix(PREFIX) for known in variables()))
    return near.replace('"', f'"{PREFIX}', 1)


def _is_service_link(name: str, value: str) -> bool:
    return any(names.fullmatch(name) and values.fullmatch(value) for names, values in _SERVICE_LINKS)


_BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


def decode(text: str, shape: Shape) -> object:
    """The JSON value that a variable's text stands for. Raises `Unfit` for a text that stands for none.

    A list is JSON, or elements between commas. An empty text is refused: it may mean "none" or "nothing said".
    """
    if not text.strip():
        advice = "An empty list is written as []." if shape.item is not None else ""
        raise Unfit("a value, or no such variable", advice)
    if shape.item is not None:
        return _decode_list(text, shape.item)
    if isinstance(shape.kind, Flag):
        word = text.strip().lower()
        if word not in _BOOLEANS:
            raise Unfit(shape.kind.expected)
        return _BOOLEANS[word]
    return _decode_number(text) if _is_numeric(shape) else text


def _decode_list(text: str, item: Shape) -> object:
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError:  # JSONDecodeError, or an integer of thousands of digits
            raise Unfit("a list in JSON") from None
    if item.section is not None:
        raise Unfit("a list of objects in JSON")
    return [decode(part.strip(), item) for part in text.split(",")]


def _is_numeric(shape: Shape) -> bool:
    schema = shape.kind.schema() if shape.kind is not None else {}
    options = schema.get("anyOf", [schema])
    assert isinstance(options, list)
    return any(option.get("type") in {"number", "integer"} for option in options)


def _decode_number(text: str) -> object:
    """The number that a text is, or the text itself for the kind to judge: it may be a duration."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
