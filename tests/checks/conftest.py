"""What the checks share: the project's own sources, parsed once."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def parsed(folder: str) -> dict[Path, ast.Module]:
    files = sorted((ROOT / folder).rglob("*.py"))
    return {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in files}


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def product() -> dict[Path, ast.Module]:
    """The modules of `elemta`: path within the repository → syntax tree."""
    return parsed("elemta")


@pytest.fixture(scope="session")
def tests() -> dict[Path, ast.Module]:
    """The modules of `tests`: path within the repository → syntax tree."""
    return parsed("tests")
