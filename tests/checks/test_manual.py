"""The manual page: made from the commands as they are, clean to those who read roff, in the wheel."""

import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from elemta.cli.main import VERBS, cli
from elemta.cli.manual import page


def test_the_page_is_that_of_the_commands(root: Path) -> None:
    written = (root / "docs" / "elemta.1").read_text(encoding="utf-8")
    assert page(cli) == written, 'the commands have changed: "elemta manual > docs/elemta.1"'


def test_it_tells_of_every_command(root: Path) -> None:
    lines = (root / "docs" / "elemta.1").read_text(encoding="utf-8").splitlines()
    for name in VERBS:
        assert any(line.startswith(f".SS elemta {name}") for line in lines), name
    assert any(line.startswith(".SS elemta queue list") for line in lines)


@pytest.mark.needs("groff")
def test_groff_has_nothing_to_say(root: Path) -> None:
    page = root / "docs" / "elemta.1"
    set_page = subprocess.run(["groff", "-ww", "-man", "-Tutf8", page], capture_output=True, text=True, timeout=60)
    assert (set_page.returncode, set_page.stderr) == (0, "")
    assert "elemta-sendmail" in set_page.stdout


def test_the_wheel_takes_it_along(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared == {"docs/elemta.1": "share/man/man1/elemta.1"}


def test_what_means_something_to_roff_is_escaped() -> None:
    @click.group()
    def group() -> None:
        """Does it.

        \b
        .so /etc/passwd
        'quoted'  back\\slash  --dash
        """

    lines = page(group).splitlines()
    assert "\\&.so /etc/passwd" in lines
    assert "\\&'quoted'  back\\eslash  \\-\\-dash" in lines
