"""The keys of the configuration, as their classes describe them.

What is not here: values. Environment variables, JSON Schema, manual and `config show` all walk this one list.
"""

import enum
import types
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

import attrs
from attrs import frozen

from elemta.config.document import Path
from elemta.config.kinds import About, Flag, Kind, Secret, Text
from elemta.config.problems import describe
from elemta.config.sections import Config

#: Stands in a path for every index of a list.
EACH = -1


@frozen
class Shape:
    """A field's annotation taken apart. Exactly one of `kind`, `choices`, `item` and `section` is set."""

    kind: Kind | None = None
    choices: type[enum.Enum] | None = None
    #: Of the elements of a list.
    item: "Shape | None" = None
    section: type[Any] | None = None
    nullable: bool = False

    @property
    def expected(self) -> str:
        """Completes the sentence "expected …"."""
        if self.choices is not None:
            return "one of " + ", ".join(f'"{choice.value}"' for choice in self.choices)
        if self.kind is not None:
            return self.kind.expected
        return "a list" if self.item is not None else "an object with keys of its own"


@frozen
class Key:
    """One key: a leaf of the tree, be it a list."""

    path: Path
    shape: Shape
    about: str
    secret: bool
    #: None where the machine or another key decides.
    default: object = None
    required: bool = False


def shape_of(annotation: Any) -> Shape:
    """Take a field's annotation apart."""
    markers: tuple[object, ...] = ()
    if get_origin(annotation) is Annotated:
        annotation, *rest = get_args(annotation)
        markers = tuple(rest)
    kind = next((marker for marker in markers if isinstance(marker, Kind)), None)
    if kind is not None:
        return Shape(kind=kind)
    if get_origin(annotation) in (Union, types.UnionType):
        inner = next(option for option in get_args(annotation) if option is not types.NoneType)
        return attrs.evolve(shape_of(inner), nullable=True)
    if get_origin(annotation) is tuple:
        return Shape(item=shape_of(get_args(annotation)[0]))
    if annotation is bool:
        return Shape(kind=Flag())
    if annotation is str:
        return Shape(kind=Text())
    if issubclass(annotation, enum.Enum):
        return Shape(choices=annotation)
    return Shape(section=annotation)


def keys_of(section: type[Any], path: Path = ()) -> Iterator[Key]:
    """Every key of a section and of the sections inside it, in the order of their classes."""
    for attribute in attrs.fields(section):
        shape = shape_of(attribute.type)
        here = (*path, attribute.name)
        if shape.section is not None:
            yield from keys_of(shape.section, here)
            continue
        markers = get_args(attribute.type)[1:] if get_origin(attribute.type) is Annotated else ()
        decided = not (attribute.default is attrs.NOTHING or hasattr(attribute.default, "factory"))
        yield Key(
            path=here,
            shape=shape,
            about=next((marker.text for marker in markers if isinstance(marker, About)), ""),
            secret=any(isinstance(marker, Secret) for marker in markers),
            default=attribute.default if decided else None,
            required=attribute.default is attrs.NOTHING,
        )


@cache
def all_keys() -> tuple[Key, ...]:
    """Every key of the configuration."""
    return tuple(keys_of(Config))


@cache
def secret_files() -> dict[Path, Path]:
    """The keys that name a file with a secret, each with the key of the secret; those inside lists apart."""
    return {_file_of(key.path): key.path for key in all_keys() if key.secret}


@cache
def listed_secrets() -> tuple[Path, ...]:
    """The secrets inside lists, with `EACH` for an index: `("routes", EACH, "password")`."""
    return tuple(_secrets_of_elements(Config, ()))


def _secrets_of_elements(section: type[Any], path: Path) -> Iterator[Path]:
    for key in keys_of(section, path):
        if key.secret and EACH in path:
            yield key.path
        if key.shape.item is not None and key.shape.item.section is not None:
            yield from _secrets_of_elements(key.shape.item.section, (*key.path, EACH))


@cache
def listed_secret_files() -> dict[Path, Path]:
    """As `secret_files`, for the secrets inside lists."""
    return {_file_of(path): path for path in listed_secrets()}


def _file_of(secret: Path) -> Path:
    return (*secret[:-1], f"{secret[-1]}_file")


@cache
def _secrets() -> frozenset[Path]:
    return frozenset((*(key.path for key in all_keys() if key.secret), *listed_secrets()))


def is_secret(path: Path) -> bool:
    """Whether the key at `path` is secret, be it inside a list."""
    return tuple(EACH if isinstance(step, int) else step for step in path) in _secrets()


def describe_at(path: Path, value: object) -> str:
    """Say what stands at `path`, in a few words that show no secret."""
    if is_secret(path):
        return "a secret"
    if isinstance(value, str) and any(secret[: len(path)] == path for secret in listed_secrets()):
        return "a text"  # a list as a text, with what its elements hold
    return describe(value)


def expected_at(path: Path) -> str:
    """Completes "expected …" for a key that may be inside a list."""
    shape = Shape(section=Config)
    for step in path:
        if isinstance(step, int):
            assert shape.item is not None
            shape = shape.item
        else:
            assert shape.section is not None
            shape = shape_of(getattr(attrs.fields(shape.section), step).type)
    return shape.expected


@cache
def sections() -> frozenset[Path]:
    """The paths of the objects that hold keys."""
    return frozenset(key.path[:length] for key in all_keys() for length in range(1, len(key.path)))
