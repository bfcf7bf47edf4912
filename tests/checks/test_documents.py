"""What the documents promise, compared with the files they speak of."""

import json
import re
from pathlib import Path

import pytest

LINK = re.compile(r"\[[^\]]*\]\((?!https?:|#)([^)#\s]+)[^)]*\)")


def fenced(text: str, language: str) -> list[str]:
    """The code blocks of one language in a Markdown text."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def readme(root: Path) -> str:
    """The README."""
    return (root / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_test_command_of_the_readme(root: Path, readme: str) -> None:
    commands = [line for block in fenced(readme, "bash") for line in block.splitlines() if line.endswith("tox")]
    assert len(commands) == 1
    assert commands[0] in [line.strip() for line in (root / ".ci" / "run").read_text(encoding="utf-8").splitlines()]


def test_the_configurations_of_the_readme_are_examples_that_ship(root: Path, readme: str) -> None:
    blocks = fenced(readme, "json")
    assert blocks == [(root / "conf" / f"{name}.json").read_text(encoding="utf-8") for name in ("relay", "submission")]
    assert max(len(block.splitlines()) for block in blocks) <= 10


def test_examples_are_json(root: Path) -> None:
    examples = sorted((root / "conf").glob("*.json"))
    assert [path.name for path in examples if not isinstance(json.loads(path.read_bytes()), dict)] == []
    assert {"dev.json", "original-example.json", "relay.json", "submission.json"} <= {path.name for path in examples}


def test_links_lead_somewhere(root: Path) -> None:
    documents = [root / "README.md", root / "CHANGELOG.md", *sorted((root / "docs").rglob("*.md"))]
    broken = [
        f"{path.relative_to(root)}: {link}"
        for path in documents
        for link in LINK.findall(path.read_text(encoding="utf-8"))
        if not (path.parent / link).exists()
    ]
    assert broken == []


def test_links_are_recognised() -> None:
    text = "[a](docs/tour.md) [b](https://example.com/x) [c](#here) [d](docs/x.md#part) ![e](x.png)"
    assert LINK.findall(text) == ["docs/tour.md", "docs/x.md", "x.png"]


def test_constraints_are_names_with_versions(root: Path) -> None:
    lines = (root / "tests" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
    assert not any(line.lower().startswith("elemta") for line in lines)
