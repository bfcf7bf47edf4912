"""The JSON Schema, the classes and the loader agree with each other."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.config.keys import Shape, all_keys, keys_of, secret_files
from elemta.config.kinds import Amount, Choice, Duration, Flag, Form, PortNumber, Text, Whole
from elemta.config.known import MOVED, known_keys
from elemta.config.plugins import PluginKind
from elemta.config.schema import DIALECT, json_schema
from elemta.config.sections import Config
from elemta.config.structure import Findings, structure, unstructure

# ---- documents that fit, from the classes --------------------------------------------------------

PRINTABLE = st.characters(exclude_categories=("C", "Z"))
WRITTEN_DURATIONS = st.sampled_from(["300ms", "90s", "30m", "1h30m", "24h", "7d", "1.5h"])
#: By the words for what was expected, up to the first colon or "such as".
WRITTEN_FORMS = {
    "an address to listen at": [":25", "127.0.0.1:0", "[::1]:2525", "localhost:26", "unix:/run/x", "mx.Example:25"],
    "an IP address or a network": ["127.0.0.1", "::1", "10.0.0.0/8", "::ffff:10.0.0.0/104", "2001:DB8::/32"],
    "a domain name": ["example.com", "EXAMPLE.org", "bücher.example", "localhost"],
    "a pattern of domains": ["*", "example.com", "*.example.com", "*.Bücher.example"],
    "a host name or an IP address": ["mx.example.com", "192.0.2.1", "[2001:db8::1]", "2001:DB8::1"],
    "a database on a server": ["postgresql://u:p@h:5432/d", "mysql://h/d?pool_size=3", "mariadb:///d?socket=/run/x"],
    "where a service listens": ["localhost:783", "192.0.2.1:11", "[2001:db8::1]:783", "unix:/run/clamd.sock"],
    "where a web service listens": ["http://localhost:11333", "https://scan.example.com/rspamd", "unix:/run/x"],
    "a mail address": ["jo@example.com", "Jo.Doe+tag@EXAMPLE.com", "jö@bücher.example"],
}

PLUGIN_NAMES = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
PLUGIN_KEYS: dict[Any, st.SearchStrategy[Any]] = {
    "enabled": st.booleans(),
    "priority": st.none() | st.integers(-1000, 1000),
    "deadline": st.none() | st.integers(1, 3600) | WRITTEN_DURATIONS,
    "on_error": st.none() | st.sampled_from(["accept", "defer", "reject"]),
    "settings": st.just({"anything": [1]}),
}


def values(shape: Shape) -> st.SearchStrategy[Any]:
    """JSON values that fit."""
    return plain_values(shape) | st.none() if shape.nullable else plain_values(shape)


def plain_values(shape: Shape) -> st.SearchStrategy[Any]:
    if shape.item is not None:
        return st.lists(values(shape.item), max_size=3)
    if shape.section is not None:
        return sections(shape.section)
    if shape.choices is not None:
        return st.sampled_from([choice.value for choice in shape.choices])
    match shape.kind:
        case Flag():
            return st.booleans()
        case Whole(least=least, most=most):
            return st.integers(least, most)
        case PortNumber():
            return st.integers(1, 65535)
        case Amount(least=low, most=high):
            return st.floats(low, high) | st.integers(int(low), int(high))
        case Duration():
            return st.floats(0.001, 10**9) | st.integers(1, 10**9) | WRITTEN_DURATIONS
        case Text(empty=empty):
            return st.text(PRINTABLE, min_size=0 if empty else 1)
        case Choice(words=words, synonyms=synonyms):
            return st.sampled_from([*words, *synonyms])
        case Form(expected=expected):
            return st.sampled_from(WRITTEN_FORMS[re.split(":| such as", expected)[0]])
        case PluginKind():
            return PLUGIN_NAMES | st.fixed_dictionaries({"name": PLUGIN_NAMES}, optional=PLUGIN_KEYS)
    raise AssertionError(f"no values for {shape}")


def sections(section: type[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that fit a section; each key that may be left out is left out now and then."""
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    inner: dict[str, dict[str, st.SearchStrategy[Any]]] = {}
    for key in keys_of(section):
        name, *below = map(str, key.path)
        if below:
            inner.setdefault(name, {})[".".join(below)] = values(key.shape)
        else:
            (required if key.required else optional)[name] = values(key.shape)
    optional |= {name: st.fixed_dictionaries({}, optional=keys).map(nested) for name, keys in inner.items()}
    return st.fixed_dictionaries(required, optional=optional)


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for dotted, value in flat.items():
        *above, name = dotted.split(".")
        section = tree
        for step in above:
            section = section.setdefault(step, {})
        section[name] = value
    return tree


# ---- what of JSON Schema our schema uses ---------------------------------------------------------

TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}
ANNOTATIONS = {"$schema", "title", "description", "default", "deprecated", "writeOnly"}


def valid(schema: dict[str, Any], value: Any) -> bool:
    """Whether a value fits, by the words of JSON Schema 2020-12 that we use; another word is an error here."""
    return all(fits(word, schema, value) for word in schema.keys() - ANNOTATIONS)


def fits(word: str, schema: dict[str, Any], value: Any) -> bool:
    said = schema[word]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match word:
        case "type":
            return isinstance(value, TYPES[said]) and (said == "boolean" or not isinstance(value, bool))
        case "enum":
            return value in said
        case "anyOf":
            return any(valid(option, value) for option in said)
        case "minimum":
            return not number or value >= said
        case "exclusiveMinimum":
            return not number or value > said
        case "maximum":
            return not number or value <= said
        case "minLength":
            return not isinstance(value, str) or len(value) >= said
        case "pattern":
            return not isinstance(value, str) or re.search(said, value) is not None
        case "items":
            return not isinstance(value, list) or all(valid(said, item) for item in value)
        case "required":
            return not isinstance(value, dict) or value.keys() >= set(said)
        case "properties":
            return not isinstance(value, dict) or all(valid(said[key], value[key]) for key in value.keys() & said)
        case "additionalProperties":
            assert said is False
            return not isinstance(value, dict) or value.keys() <= schema["properties"].keys()
    raise AssertionError(f"a word of JSON Schema that no test knows: {word}")


SCHEMA = json_schema()
LEAVES = [key for key in all_keys() if key.path != ("$schema",)]


# ---- they agree ----------------------------------------------------------------------------------


@given(sections(Config))
def test_what_the_sections_take_the_schema_allows(document: dict[str, Any]) -> None:
    structure(document)
    assert valid(SCHEMA, json.loads(json.dumps(document)))


@given(sections(Config))
def test_a_configuration_survives_the_way_to_json_and_back(document: dict[str, Any]) -> None:
    config = structure(document)
    written = json.loads(json.dumps(unstructure(config)))
    assert structure(written) == config
    assert valid(SCHEMA, written)


def test_the_defaults_fit_the_schema_and_are_those_it_names() -> None:
    defaults = unstructure(Config(hostname="mail.example.com"))
    assert valid(SCHEMA, defaults)
    for key in LEAVES:
        if key.default is not None:
            assert at(SCHEMA, key.path)["default"] == value_at(defaults, key.path)


@pytest.mark.parametrize("key", LEAVES, ids=lambda key: ".".join(map(str, key.path)))
def test_a_value_of_the_wrong_type_is_refused_by_both(key: Any) -> None:
    wrongs: tuple[Any, ...] = ({"x": 1}, [{"x": 1}], [[]], True, 0.5, -1, "\t")
    for wrong in wrongs:
        document: Any = wrong
        for step in reversed(key.path):
            document = {step: document}
        if not valid(SCHEMA, document):
            with pytest.raises(Findings) as caught:
                structure(document)
            assert {finding.path[: len(key.path)] for finding in caught.value.found} == {key.path}
    assert not valid(at(SCHEMA, key.path), {"x": 1})


def test_every_key_has_its_place_and_its_words_in_the_schema() -> None:
    assert SCHEMA["$schema"] == DIALECT == "https://json-schema.org/draft/2020-12/schema"
    for path in (*(key.path for key in LEAVES), *secret_files(), *known_keys(), *MOVED):
        assert at(SCHEMA, path)["description"]
    assert at(SCHEMA, ("cache", "ttl"))["deprecated"]
    assert at(SCHEMA, ("auth", "datasource_pass"))["writeOnly"]
    for section in ("listeners", "routes"):
        properties = SCHEMA["properties"][section]["items"]["properties"]
        assert all(leaf["description"] for leaf in properties.values())


def test_an_unknown_key_is_not_allowed_by_the_schema() -> None:
    for document in ({"x": 1}, {"auth": {"x": 1}}, {"cache": {"x": 1}}, {"routes": [{"x": 1}]}):
        assert not valid(SCHEMA, document)


def at(schema: dict[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    for step in path:
        schema = schema["properties"][step]
    return schema


def value_at(tree: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        tree = tree[step]
    return tree
