"""What the documents show: configurations load, Python compiles, commands exist with their options."""

import ast
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import click
import pytest

from elemta.cli.main import cli
from elemta.config.load import load_config
from elemta.config.problems import ConfigError
from elemta.config.sections import Config
from tests.checks.pages import calls, fenced, pages, typed

SECTIONS = {field.name for field in attrs.fields(Config)}


# ---- JSON, Python --------------------------------------------------------------------------------


def configuration_in(block: str) -> dict[str, Any] | None:
    """The configuration that a block shows, whole or some keys of it; None where it is something else."""
    document = json.loads(f"{{{block}}}" if block.lstrip().startswith('"') else block)
    if not isinstance(document, dict) or not document.keys() <= SECTIONS:
        return None
    # A file of rules has a list under the same name.
    return None if isinstance(document.get("rules"), list) else document


def test_blocks_of_json_are_json_and_configurations_load(root: Path, tmp_path: Path) -> None:
    found = []
    for page in pages(root):
        for block in fenced(page.read_text(encoding="utf-8"), "json"):
            try:
                document = configuration_in(block)
                if document is not None:
                    load(document, tmp_path)
            except (ConfigError, ValueError) as error:
                found.append(f"{page.relative_to(root)}: {error}: {block[:60]}")
    assert found == []


def load(document: dict[str, Any], folder: Path) -> None:
    """Load it where the files that it names are there. Raises `ConfigError`."""
    path = folder / "elemta.conf"
    path.write_text(json.dumps(with_files(document, folder)), encoding="utf-8")
    load_config(str(path), {}, cwd=folder)


def with_files(value: Any, folder: Path, kind: str = "") -> Any:
    """The same with secrets that exist: each file that a `…_file` names is made in the folder."""
    if isinstance(value, list):
        return [with_files(one, folder, kind) for one in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("type") or value.get("datasource_type") or kind
    return {
        key: made(key, folder, kind) if key.endswith("_file") else with_files(inner, folder, kind)
        for key, inner in value.items()
    }


def made(key: str, folder: Path, kind: str) -> str:
    path = folder / key
    path.touch(mode=0o600)
    path.write_text(f"{kind}://user:secret@localhost/elemta" if "dsn" in key else "secret", encoding="utf-8")
    return str(path)


def test_blocks_of_python_compile(root: Path) -> None:
    found = []
    for page in pages(root):
        for block in fenced(page.read_text(encoding="utf-8"), "python"):
            try:
                compile(textwrap.dedent(block), str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            except SyntaxError as error:
                found.append(f"{page.relative_to(root)}: {error}")
    assert found == []


@pytest.mark.parametrize(
    ("block", "is_one"),
    [
        ('{"hostname": "mx.example.com"}', True),
        ('"tls": {"enabled": true}', True),
        ('{"rules": {"enabled": true}}', True),
        ('{"rules": []}', False),
        ('{"name": "a rule"}', False),
        ("[]", False),
    ],
)
def test_configurations_are_recognised(block: str, *, is_one: bool) -> None:
    assert (configuration_in(block) is not None) == is_one


@pytest.mark.parametrize("document", [{"listeners": [{"adress": ":25"}]}, {"auth": {"required": True}}])
def test_one_that_does_not_load_is_found(document: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load(document, tmp_path)


# ---- commands ------------------------------------------------------------------------------------


def trouble_with(words: list[str]) -> str | None:
    """Why the program would not understand these arguments, as far as their values need not exist."""
    command: click.Command = cli
    context = click.Context(cli, info_name="elemta", **cli.context_settings)
    while words and words[0] not in {"…", "COMMAND"}:
        try:
            values, words, _ = command.make_parser(context).parse_args(words)
            for parameter in command.params:
                if parameter.name in values and isinstance(parameter.type, click.Choice):
                    parameter.type_cast_value(context, values[parameter.name])
            if not isinstance(command, click.Group) or not words or words[0] == "…":
                return None
            name, found, words = command.resolve_command(context, words)
        except click.ClickException as error:
            return f"{context.command_path}: {error.format_message()}"
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=name, **found.context_settings)
    return None


def all_typed(root: Path) -> Iterator[tuple[str, str]]:
    """A page's name with a line that people are told to type there, the examples of the manual page among them."""
    for page in pages(root):
        for line in typed(page.read_text(encoding="utf-8")):
            yield str(page.relative_to(root)), line
    for line in (root / "docs" / "elemta.1").read_text(encoding="utf-8").replace("\\-", "-").splitlines():
        if re.match(r"elemta [^-]|elemta --?\w", line):
            yield "docs/elemta.1", re.sub(r" {2,}.*", "", line)


def test_commands_exist_with_their_options(root: Path) -> None:
    found, seen = [], 0
    for name, line in all_typed(root):
        if not re.search(r"(?:^|[\s/(])elemta\s", line):
            continue
        try:
            told = calls(line)
        except ValueError as error:
            found.append(f"{name}: {line}: {error}")
            continue
        seen += len(told)
        found += [f"{name}: {line}: {trouble}" for words in told if (trouble := trouble_with(words))]
    assert found == []
    assert seen > 100


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("elemta run --dev  # starts it", [["run", "--dev"]]),
        ("python3 -m venv .venv && .venv/bin/elemta run", [["run"]]),
        (
            "elemta queue list -o ids | elemta queue hold - --reason 'a > b'",
            [["queue", "list", "-o", "ids"], ["queue", "hold", "-", "--reason", "a > b"]],
        ),
        ("elemta queue list --sender '<>' > list.txt", [["queue", "list", "--sender", "<>"]]),
        ("sudo -u elemta elemta queue list", [["queue", "list"]]),
        ("podman exec elemta elemta config show", [["config", "show"]]),
        ("ELEMTA_CONFIG=x elemta version", [["version"]]),
        ("kill $(elemta version)", [["version"]]),
        ("podman build -t elemta .", []),
        ("psql elemta -c 'SELECT 1'", []),
    ],
)
def test_calls_are_recognised(line: str, told: list[list[str]]) -> None:
    assert calls(line) == told


@pytest.mark.parametrize(
    "words", [["no-such"], ["queue", "flush"], ["queue", "list", "--sate", "held"], ["queue", "list", "--state", "odd"]]
)
def test_what_is_no_command_is_found(words: list[str]) -> None:
    assert trouble_with(words) is not None


@pytest.mark.parametrize("words", [[], ["queue", "…"], ["-c", "FILE", "queue", "show", "ID"], ["server", "--dev"]])
def test_commands_are_understood(words: list[str]) -> None:
    assert trouble_with(words) is None
