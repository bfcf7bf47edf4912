"""The commands `elemta plugin …`, and what `elemta config check` says of plugins."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from elemta.plugins.api import Stage
from tests.cli.at_desk import Terminal

PLUGIN = """\
from typing import Annotated

from attrs import frozen

from elemta.config.kinds import About, Secret, Whole, Words
from elemta.plugins.api import CONTINUE, Mail, OnError, Plugin, Session, Verdict


@frozen
class Inner:
    key: Annotated[Words, Secret(), About("Not to be shown.")] = "sesame"


@frozen
class Settings:
    limit: Annotated[int, Whole("mails", 1, 9), About("How many.")]
    password: Annotated[Words | None, Secret(), About("Whose.")] = None
    doors: Annotated[tuple[Inner, ...], About("Where.")] = ()


class Counting(Plugin):
    settings_class = Settings
    priority = 60
    deadline = 2.5
    on_error = OnError.DEFER
    about = "Counts mails."

    async def on_connect(self, session: Session) -> Verdict:
        return CONTINUE

    async def on_data_complete(self, mail: Mail) -> Verdict:
        return CONTINUE
"""


@pytest.fixture
def folder(terminal: Terminal) -> Path:
    """The folder of plugins, with one in it."""
    folder = terminal.folder / "plugins"
    folder.mkdir(mode=0o755)
    (folder / "counting.py").write_text(PLUGIN)
    return folder


def configure(terminal: Terminal, *entries: object, **keys: object) -> None:
    """Turn plugins on."""
    section = {"plugin_path": str(terminal.folder / "plugins"), "plugins": entries, **keys}
    terminal.configure(plugins=section)


def rows(terminal: Terminal) -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in terminal.run("plugin", "list", "-o", "json").json}


# ---- list and show -------------------------------------------------------------------------------


def test_the_list_has_files_and_entry_points(terminal: Terminal, folder: Path) -> None:
    configure(terminal)
    found = rows(terminal)
    assert {"counting", "milter", "greylisting"} <= set(found)
    assert found["counting"] == {
        "name": "counting",
        "enabled": False,
        "where": str(folder / "counting.py"),
        "about": "Counts mails.",
        "priority": 60,
        "deadline": 2.5,
        "on_error": "defer",
        "blocking": False,
        "stages": ["connect", "data_complete"],
        "settings": found["counting"]["settings"],
        "error": None,
    }
    assert found["milter"]["where"] == "elemta"
    assert [row for row in found.values() if row["error"] or not row["about"]] == []


def test_the_configuration_stands_before_what_the_plugin_says(terminal: Terminal, folder: Path) -> None:
    entry = {"name": "counting", "priority": 7, "deadline": "1m", "on_error": "reject", "settings": {"limit": 3}}
    configure(terminal, entry, {"name": "twice", "plugin": "counting", "settings": {"limit": 4}})
    found = rows(terminal)
    counting = found["counting"]
    assert [counting[key] for key in ("enabled", "priority", "deadline", "on_error")] == [True, 7, 60, "reject"]
    assert found["twice"]["enabled"]
    assert found["twice"]["where"] == found["counting"]["where"]
    assert [row["name"] for row in found.values() if row["enabled"]] == ["counting", "twice"]
    line = next(line for line in terminal.run("plugin", "list").lines if line.startswith("counting"))
    assert line.split()[:7] == ["counting", "on", "7", "60s", "reject", "connect", "data_complete"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import nothing_of_the_kind", "ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("def", "SyntaxError"),
        ("x = 1", "defines 0 classes"),
        ("raise RuntimeError('\\x1b[2Jhello')", "RuntimeError: \\x1b[2Jhello"),
    ],
)
def test_what_cannot_be_imported_is_listed_with_its_error(
    source: str, says: str, terminal: Terminal, folder: Path
) -> None:
    (folder / "broken.py").write_text(source)
    configure(terminal)
    ended = terminal.run("plugin", "list")
    assert ended.code == 0
    line = next(line for line in ended.lines if line.startswith("broken"))
    assert f"ERROR: {says}" in line or says in line
    assert "\x1b" not in ended.out
    assert any(line.startswith("counting") for line in ended.lines)


def test_a_folder_that_is_not_to_be_trusted(terminal: Terminal, folder: Path) -> None:
    folder.chmod(0o777)
    configure(terminal)
    ended = terminal.run("plugin", "list")
    assert ended.code == 1
    assert "others than its owner may write here" in ended.err
    assert f"chmod go-w {folder}" in ended.err
    assert any(line.startswith("milter") for line in ended.lines)
    assert not any(line.startswith("counting") for line in ended.lines)


def test_show_tells_of_every_setting(terminal: Terminal, folder: Path) -> None:
    configure(
        terminal,
        {"name": "counting", "settings": {"limit": 3, "password": "hunter2", "doors": [{"key": "hunter3"}]}},
    )
    ended = terminal.run("plugin", "show", "counting")
    assert ended.code == 0
    assert "hunter" not in ended.out
    lines = [line.split() for line in ended.lines]
    assert ["asked", "at", "connect", "data_complete"] in lines
    limit = next(line for line in ended.lines if line.startswith("limit"))
    assert "a whole number of mails from 1 to 9" in limit
    assert "must be given" in limit
    assert limit.split()[-3:] == ["3", "How", "many."]
    settings = terminal.run("plugin", "show", "counting", "-o", "json").json["settings"]
    assert [(one["key"], one["value"]) for one in settings] == [
        ("limit", "3"),
        ("password", "********"),
        ("doors", "********"),
    ]


def test_show_of_one_that_is_off_has_no_values(terminal: Terminal, folder: Path) -> None:
    configure(terminal)
    ended = terminal.run("plugin", "show", "counting")
    assert "NOW" not in ended.out
    assert "How many." in ended.out


def test_show_of_none_names_the_nearest(terminal: Terminal, folder: Path) -> None:
    configure(terminal)
    ended = terminal.run("plugin", "show", "countin")
    assert (ended.code, ended.out) == (1, "")
    assert 'Did you mean "counting"?' in ended.err


def test_every_bundled_plugin_can_be_shown(terminal: Terminal) -> None:
    configure(terminal)
    for name, row in rows(terminal).items():
        assert terminal.run("plugin", "show", name).code == 0
        settings = row["settings"]
        assert isinstance(settings, list)
        assert all(one["about"] for one in settings), f"a setting of {name} says nothing of itself"
        assert set(row["stages"]) <= {stage.value for stage in Stage}  # type: ignore[call-overload]  # a list


# ---- check ---------------------------------------------------------------------------------------


def test_check_of_sound_plugins(terminal: Terminal, folder: Path) -> None:
    configure(terminal)
    assert terminal.run("plugin", "check").out == "ok: no plugin is on\n"
    configure(terminal, {"name": "counting", "settings": {"limit": 1}}, "greylisting")
    assert terminal.run("plugin", "check").out == "ok: counting, greylisting\n"
    assert terminal.run("config", "check").code == 0


def test_check_says_all_that_is_wrong(terminal: Terminal, folder: Path) -> None:
    (folder / "broken.py").write_text("raise SystemExit")
    (folder / "starting.py").write_text(
        "from elemta.plugins.api import Plugin\n\nclass A(Plugin):\n    async def start(self):\n        raise OSError\n"
    )
    configure(
        terminal,
        {"name": "counting", "settings": {"limitt": 1, "limit": 10}},
        "broken",
        "greylistin",
        "starting",
        "greylisting",
        "greylisting",
    )
    ended = terminal.run("plugin", "check")
    assert (ended.code, ended.out) == (78, "")
    for says in (
        'plugins.plugins[0]: settings.limitt: there is no such key. Did you mean "limit"?',
        "plugins.plugins[0]: settings.limit: expected a whole number of mails from 1 to 9",
        "plugins.plugins[1]: the plugin 'broken' cannot be loaded: SystemExit",
        'plugins.plugins[2]: there is no plugin named "greylistin". Did you mean "greylisting"?',
        "plugins.plugins[5]: the plugin 'greylisting' stands twice",
    ):
        assert says in ended.err, says
    assert "starting" not in ended.err, "nothing is started"
    document = terminal.run("plugin", "check", "-o", "json")
    assert (document.code, document.json["ok"], len(document.json["errors"])) == (78, False, 5)


def test_config_check_checks_plugins_too(terminal: Terminal, folder: Path) -> None:
    configure(terminal, "counting")
    ended = terminal.run("config", "check")
    assert (ended.code, ended.out) == (78, "")
    assert "plugins.plugins[0]: settings.limit: this key is missing." in ended.err
    assert "1 error" in ended.err
    document = terminal.run("config", "check", "-o", "json").json
    assert (document["ok"], len(document["errors"])) == (False, 1)
    configure(terminal, "counting", enabled=False)
    assert terminal.run("config", "check").code == 0


# ---- new -----------------------------------------------------------------------------------------


def test_new_writes_a_plugin_whose_tests_pass_at_once(terminal: Terminal) -> None:
    configure(terminal)
    folder = terminal.folder / "plugins"
    mask = os.umask(0o002)  # as Debian gives it to people
    try:
        ended = terminal.run("plugin", "new", "no_invoices")
    finally:
        os.umask(mask)
    assert ended.code == 0
    assert ended.lines == [str(folder / "no_invoices.py"), str(folder / "test_no_invoices.py")]
    configure(terminal, {"name": "no_invoices", "settings": {"words": ["bill"]}})
    assert terminal.run("plugin", "check").out == "ok: no_invoices\n"
    assert "test_no_invoices" not in rows(terminal)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "plugins"],
        cwd=terminal.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout


def test_new_writes_nothing_over(terminal: Terminal, folder: Path) -> None:
    configure(terminal)
    (folder / "test_mine.py").write_text("precious")
    ended = terminal.run("plugin", "new", "mine")
    assert ended.code == 1
    assert "is there already" in ended.err
    assert not (folder / "mine.py").exists(), "neither of the two"
    assert (folder / "test_mine.py").read_text() == "precious"
    assert terminal.run("plugin", "new", "counting").code == 1
    assert (folder / "counting.py").read_text() == PLUGIN


@pytest.mark.parametrize("name", ["", "Big", "a-b", "../a", "class", "json", "test_a", "conftest", "1a", "é", "a" * 61])
def test_new_refuses_names_that_cannot_be(name: str, terminal: Terminal, folder: Path) -> None:
    configure(terminal)
    ended = terminal.run("plugin", "new", name)
    assert ended.code == 2
    assert [path.name for path in folder.iterdir()] == ["counting.py"]


def test_commands_without_plugins_do_not_import_them() -> None:
    script = (
        "import sys, json\nfrom elemta.cli.main import main\n"
        "try:\n    main(['plugin', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    modules = set(json.loads(ran.stderr.splitlines()[-1]))
    assert "elemta.cli.plugin" in modules
    assert not {"trio", "elemta.plugins.loader", "elemta.supervisor.plugins"} & modules
