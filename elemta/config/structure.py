"""The road from a JSON document to the frozen sections.

cattrs walks the classes; each value is checked by its kind. What is not here: keys that are known without being
supported (`config.known`), or what keys mean together (`config.checks`).
Failure raised: `Findings`, with every unfit value at once.
"""

import enum
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_origin

import attrs
import cattrs
from attrs import frozen
from cattrs import AttributeValidationNote, IterableValidationNote
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from elemta.config.document import Path
from elemta.config.keys import Shape, shape_of
from elemta.config.kinds import Unfit
from elemta.config.sections import Config

T = TypeVar("T")


@frozen
class Finding:
    """One value that does not fit, or one key that is not known."""

    path: Path
    expected: str = ""
    advice: str = ""
    #: The keys that would have been known beside this one; None for a value that does not fit.
    known: tuple[str, ...] | None = None
    missing: bool = False


class Findings(Exception):
    """A document that is not a configuration; `found` says why."""

    def __init__(self, found: list[Finding]) -> None:
        super().__init__(f"{len(found)} findings")
        self.found = found


def structure(tree: dict[str, object]) -> Config:
    """Make the sections. Raises `Findings`."""
    return structure_as(Config, tree)


def structure_as(section: type[T], tree: dict[str, object]) -> T:
    """Make one section, an attrs class, and those inside it. Raises `Findings`."""
    try:
        made: T = _converter().structure(tree, section)
    except (cattrs.BaseValidationError, Unfit) as error:
        raise Findings(list(_findings(error, ()))) from None
    return made


def unstructure(value: object) -> Any:
    """The JSON value of a section, an enum or a tuple of them."""
    kind: Any = type(value)
    if attrs.has(kind):
        return {attribute.name: unstructure(getattr(value, attribute.name)) for attribute in attrs.fields(kind)}
    if isinstance(value, tuple):
        return [unstructure(item) for item in value]
    return value.value if isinstance(value, enum.Enum) else value


@cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    converter.register_structure_hook_factory(_is_value, _value_hook)
    converter.register_structure_hook_factory(attrs.has, lambda section: _section_hook(section, converter))
    converter.register_structure_hook_factory(_is_list, lambda kind: _list_hook(kind, converter))
    return converter


def _is_value(annotation: Any) -> bool:
    if annotation in (bool, str) or (isinstance(annotation, type) and issubclass(annotation, enum.Enum)):
        return True
    if get_origin(annotation) is not Annotated:
        return False
    shape = shape_of(annotation)
    return shape.section is None and shape.item is None


def _is_list(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        return _is_list(get_args(annotation)[0])
    return get_origin(annotation) is tuple


def _value_hook(annotation: Any) -> Callable[[object, Any], object]:
    shape = shape_of(annotation)
    return lambda value, _: _value(value, shape)


def _value(value: object, shape: Shape) -> object:
    if value is None and shape.nullable:
        return None
    if shape.kind is not None:
        return shape.kind.parse(value)
    assert shape.choices is not None
    if value not in [choice.value for choice in shape.choices]:
        raise Unfit(shape.expected)
    return shape.choices(value)


def _section_hook(section: Any, converter: cattrs.Converter) -> Callable[[object, Any], object]:
    walk = make_dict_structure_fn(section, converter)

    def hook(value: object, kind: Any) -> object:
        if not isinstance(value, dict):
            raise Unfit("an object with keys of its own")
        return walk(value, kind)

    return hook


def _list_hook(annotation: Any, converter: cattrs.Converter) -> Callable[[object, Any], object]:
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    item = get_args(bare)[0]

    def hook(value: object, _: Any) -> object:
        if not isinstance(value, list):
            raise Unfit("a list", "Put it in brackets." if isinstance(value, str | int | float) else "")
        made, errors = [], []
        for index, element in enumerate(value):
            try:
                made.append(converter.structure(element, item))
            except Exception as error:
                error.add_note(IterableValidationNote(f"element {index}", index, item))
                errors.append(error)
        if errors:
            raise cattrs.IterableValidationError("elements do not fit", errors, bare)
        return tuple(made)

    return hook


def _findings(error: BaseException, path: Path) -> list[Finding]:
    """Unfold what cattrs gathered into one finding a value."""
    if isinstance(error, cattrs.BaseValidationError):
        return [finding for inner in error.exceptions for finding in _findings(inner, (*path, *_step(inner)))]
    if isinstance(error, Unfit):
        return [Finding(path, expected=error.expected, advice=error.advice)]
    if isinstance(error, ForbiddenExtraKeysError):
        known = tuple(attribute.name for attribute in attrs.fields(error.cl))
        return [Finding((*path, key), known=known) for key in sorted(error.extra_fields)]
    if isinstance(error, KeyError):  # cattrs reads a key that has no default
        return [Finding(path, missing=True)]
    raise error


def _step(error: BaseException) -> Path:
    """The step of the path that cattrs noted on an error: a field's name or an index."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return (note.name,)
        if isinstance(note, IterableValidationNote):
            return (note.index,)
    return ()
