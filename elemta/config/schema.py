"""The JSON Schema (draft 2020-12) of a configuration, made from its classes.

What is not here: the checks of several keys together (`config.checks`), which a schema cannot say. Whatever the
sections take, the schema allows; keys that are known without effect are allowed, marked as deprecated.
"""

from typing import Any

import attrs

from elemta.config.document import Path, dotted
from elemta.config.keys import EACH, Key, Shape, keys_of, listed_secret_files, secret_files
from elemta.config.known import MOVED, known_keys
from elemta.config.sections import Config
from elemta.config.structure import unstructure

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_Schema = dict[str, Any]


def json_schema() -> _Schema:
    """The schema of a whole configuration."""
    schema = _section(Config)
    schema["properties"]["$schema"] = {"type": "string", "description": "Names a schema, for editors."}
    for named, secret in (*secret_files().items(), *listed_secret_files().items()):
        about = f"The name of a file that holds {_plain(secret)}."
        _place(schema, named, {"type": "string", "minLength": 1, "description": about})
    for path, known in known_keys().items():
        _place(schema, path, {"deprecated": True, "description": _sentence(known.says())})
    for old, moved in MOVED.items():
        about = f"The same as {dotted(moved.target)}."
        _place(schema, old, {**_at(schema, moved.target), "description": about, "deprecated": not moved.silent})
    return {"$schema": DIALECT, "title": "The configuration of Elemta", **schema}


def _section(section: type[Any]) -> _Schema:
    keys = {key.path[0]: key for key in keys_of(section) if len(key.path) == 1}
    properties: _Schema = {}
    for attribute in attrs.fields(section):
        key = keys.get(attribute.name)
        properties[attribute.name] = _section(attribute.type) if key is None else _leaf(key)
    schema: _Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [name for name, key in keys.items() if key.required]
    if required:
        schema["required"] = required
    return schema


def _leaf(key: Key) -> _Schema:
    schema = _shape(key.shape)
    if key.about:
        schema["description"] = key.about
    if key.default is not None:
        schema["default"] = unstructure(key.default)
    if key.secret:
        schema["writeOnly"] = True
    return schema


def _shape(shape: Shape) -> _Schema:
    schema: _Schema
    if shape.item is not None:
        schema = {"type": "array", "items": _shape(shape.item)}
    elif shape.section is not None:
        schema = _section(shape.section)
    elif shape.choices is not None:
        schema = {"enum": [choice.value for choice in shape.choices]}
    else:
        assert shape.kind is not None
        schema = shape.kind.schema()
    return {"anyOf": [schema, {"type": "null"}]} if shape.nullable else schema


def _place(schema: _Schema, path: Path, leaf: _Schema) -> None:
    """Put a schema where `path` leads; objects on the way are made, for keys that are known and do nothing."""
    for step in path[:-1]:
        if step == EACH:
            schema = schema["items"]
            continue
        made = {"type": "object", "properties": {}, "additionalProperties": False}
        schema = schema["properties"].setdefault(step, made)
    schema["properties"].setdefault(path[-1], leaf)


def _plain(path: Path) -> str:
    return dotted(path).replace(f"[{EACH}]", "[]")


def _at(schema: _Schema, path: Path) -> _Schema:
    for step in path:
        schema = schema["properties"][step]
    return schema


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"
