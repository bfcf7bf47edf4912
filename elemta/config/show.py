"""A configuration in a form that may be shown, secrets masked.

What is not here: printing (`cli.config`).
"""

from typing import Any

from attrs import frozen

from elemta.config.document import Path, dotted
from elemta.config.keys import EACH, all_keys, is_secret
from elemta.config.load import Loaded
from elemta.config.structure import unstructure

#: Stands for every secret that is set, whatever its length.
MASK = "********"


@frozen
class Shown:
    """One key. `value` is JSON."""

    key: str
    value: Any
    origin: str


def shown_keys(loaded: Loaded) -> list[Shown]:
    """Every key in the order of the sections."""
    shown = []
    for key in all_keys():
        value: Any = loaded.config
        for step in key.path:
            value = getattr(value, str(step))
        name = dotted(key.path)
        shown.append(Shown(name, _masked(unstructure(value), key.path), loaded.origins[name].where))
    return shown


def _masked(value: Any, path: Path) -> Any:
    """A JSON value with every secret in it masked that is set."""
    if is_secret(path):
        return None if value is None else MASK
    if isinstance(value, list):
        return [_masked(item, (*path, EACH)) for item in value]
    if isinstance(value, dict):
        return {name: _masked(item, (*path, name)) for name, item in value.items()}
    return value


def shown_document(loaded: Loaded) -> dict[str, Any]:
    """The whole configuration as the JSON document that would say all of it."""
    document: dict[str, Any] = {}
    for shown in shown_keys(loaded):
        section = document
        *above, name = shown.key.split(".")
        for step in above:
            section = section.setdefault(step, {})
        section[name] = shown.value
    return document
