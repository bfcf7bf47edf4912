"""The installed package, as pip sees it.

Under `tox -e tests` that is the wheel, so what the wheel forgets is missed here.
"""

import importlib.metadata
import importlib.resources
from pathlib import Path

import elemta


def test_the_package_says_that_it_is_typed() -> None:
    assert (importlib.resources.files("elemta") / "py.typed").is_file()


def test_the_version_is_that_of_the_source() -> None:
    assert importlib.metadata.version("elemta") == elemta.__version__


def test_the_command_is_installed() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="elemta")
    assert command.value == "elemta.cli.main:main"


def test_everything_of_the_source_is_installed(root: Path) -> None:
    def contents(folder: Path) -> set[str]:
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        return {name for name in files if "__pycache__" not in name}

    assert contents(Path(elemta.__file__).parent) == contents(root / "elemta")
