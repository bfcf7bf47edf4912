"""The floors: every room stands on one, and only the composition root names a concrete store.

`lint-imports` checks the directions of the imports; what it reads is checked here.
"""

import ast
import tomllib
from pathlib import Path, PurePath

import pytest

CONCRETE_STORES = frozenset({"file", "memory", "mysql", "postgresql", "sqlite"})
MAY_NAME_STORES = ("elemta/storage", "elemta/supervisor", "elemta/simulation", "elemta/testing")


@pytest.fixture(scope="session")
def contract(root: Path) -> dict[str, object]:
    """The contract of the floors in pyproject.toml."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts: list[dict[str, object]] = settings["tool"]["importlinter"]["contracts"]
    (floors,) = [each for each in contracts if each["type"] == "layers"]
    return floors


@pytest.fixture(scope="session")
def named_rooms(contract: dict[str, object]) -> list[str]:
    """The rooms that the contract names."""
    layers = contract["layers"]
    assert isinstance(layers, list)
    return [room.strip(" ()") for layer in layers for room in layer.split("|")]


def test_the_contract_is_exhaustive(contract: dict[str, object]) -> None:
    assert contract["exhaustive"] is True
    assert contract["containers"] == ["elemta"]
    assert contract["exhaustive_ignores"] == ["__main__"]
    assert "ignore_imports" not in contract


def test_every_room_has_a_floor(root: Path, named_rooms: list[str]) -> None:
    rooms = {path.name for path in (root / "elemta").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms - set(named_rooms) == set()
    assert len(named_rooms) == len(set(named_rooms))


def test_every_room_is_a_package(root: Path, named_rooms: list[str]) -> None:
    rooms = [root / "elemta" / room for room in named_rooms]
    assert [room.name for room in rooms if room.is_dir() and not (room / "__init__.py").is_file()] == []


def test_no_module_stands_beside_the_rooms(product: dict[Path, ast.Module]) -> None:
    assert {path.name for path in product if len(path.parts) == 2} == {"__init__.py", "__main__.py"}


def stores_named(tree: ast.Module) -> list[str]:
    """The concrete stores that a module imports."""
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return sorted(
        store for store in CONCRETE_STORES if any(f"{each}.".startswith(f"elemta.storage.{store}.") for each in modules)
    )


def test_only_the_composition_root_names_a_concrete_store(product: dict[Path, ast.Module]) -> None:
    offenders = [
        f"{path}: {store}"
        for path, tree in product.items()
        if not any(path.is_relative_to(room) for room in MAY_NAME_STORES)
        for store in stores_named(tree)
    ]
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize(
    ("source", "stores"),
    [
        ("from elemta.storage.sqlite import SqliteStore", ["sqlite"]),
        ("from elemta.storage import memory, base", ["memory"]),
        ("import elemta.storage.file.spool", ["file"]),
        ("from elemta.storage.base import QueueStore", []),
        ("from elemta.storage import filesystem_limits", []),
    ],
)
def test_the_check_sees_what_it_forbids(source: str, stores: list[str]) -> None:
    assert stores_named(ast.parse(source)) == stores
    assert PurePath("elemta/storage/base.py").is_relative_to(MAY_NAME_STORES[0])
