"""Finding and making plugins: entry points, a folder, what is wrong with either."""

import os
import py_compile
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any

import pytest
from attrs import frozen

from elemta.config.kinds import About, Bool, Whole, Words
from elemta.config.plugins import PluginEntry, PluginFailure
from elemta.config.wanted import Wanted, wanted_of
from elemta.plugins import loader
from elemta.plugins.api import CONTINUE, Mail, OnError, Plugin, Verdict
from elemta.plugins.loader import Found, PluginsUnusable, known_plugins, load_plugins, shape_problems
from elemta.runtime.threads import InlineThreads
from tests.plugins.fakes import PlainHost

ONE = """\
from elemta.plugins.api import CONTINUE, Plugin

class One(Plugin):
    about = "From a file."

    async def on_connect(self, session):
        return CONTINUE
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for plugins."""
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o755)
    yield folder
    for name in [name for name in sys.modules if name.startswith("elemta_plugin_")]:
        del sys.modules[name]


def host_of(name: str) -> Any:
    return PlainHost(InlineThreads())


def found(**classes: type[Plugin]) -> dict[str, Found]:
    def given(plugin: type[Plugin]) -> Callable[[], type[Plugin]]:
        return lambda: plugin

    return {name: Found(name, "the test", given(plugin)) for name, plugin in classes.items()}


def problems_of(*entries: PluginEntry, known: dict[str, Found]) -> tuple[str, ...]:
    with pytest.raises(PluginsUnusable) as failure:
        load_plugins(wanted_of(entries), known, host_of)
    return failure.value.problems


# ---- finding -------------------------------------------------------------------------------------


def test_files_and_entry_points_are_known_without_being_imported(folder: Path) -> None:
    (folder / "one.py").write_text("raise AssertionError('imported')")
    for name in ("_part.py", "test_one.py", "conftest.py", "notes.txt", "one.pyc"):
        (folder / name).write_text("raise AssertionError('imported')")
    known = known_plugins(folder)
    assert {"milter", "greylisting", "rules"} <= set(known)
    assert {name for name, one in known.items() if one.where.startswith(str(folder))} == {"one"}
    assert known["milter"].where == "elemta"
    assert "one" not in known_plugins(None)


def test_a_folder_that_is_not_there_has_none(folder: Path) -> None:
    assert set(known_plugins(folder / "missing")) == set(known_plugins(None))


def test_a_file_stands_before_a_package(folder: Path) -> None:
    (folder / "milter.py").write_text(ONE)
    assert known_plugins(folder)["milter"].load().about == "From a file."


def test_every_entry_point_of_ours_loads() -> None:
    known = {name: one for name, one in known_plugins(None).items() if one.where == "elemta"}
    assert known
    for name, one in known.items():
        plugin = one.load()
        assert issubclass(plugin, Plugin)
        assert list(shape_problems(plugin)) == [], name


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_others_may_write_to_is_not_loaded(what: str, mode: int, folder: Path) -> None:
    path = folder / "one.py"
    path.write_text(ONE)
    guilty = folder if what == "folder" else path
    guilty.chmod(mode)
    with pytest.raises(PluginsUnusable, match=r'Run "chmod go-w') as failure:
        known_plugins(folder)["one"].load()
    assert str(guilty) in str(failure.value)
    guilty.chmod(0o755)
    assert known_plugins(folder)["one"].load().__name__ == "One"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = 1\n", "defines 0 classes derived from Plugin"),
        (ONE + "class Two(Plugin): pass\n", "defines 2 classes derived from Plugin"),
        ("from elemta.plugins.milter.plugin import Milter\n", "defines 0 classes"),
        ("import nothing_like_it\n", "No module named 'nothing_like_it'"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def\n", "SyntaxError"),
        ("\0", "cannot be loaded: "),
    ],
)
def test_files_that_are_no_plugin_say_why(source: str, says: str, folder: Path) -> None:
    (folder / "odd.py").write_text(source)
    (problem,) = problems_of(PluginEntry("odd"), known=known_plugins(folder))
    assert problem.startswith("plugins.plugins[0]: the plugin 'odd' cannot be loaded: ")
    assert says in problem
    assert "elemta_plugin_odd" not in sys.modules


@pytest.mark.parametrize("source", ["1 / 0\n", "x = 1\n"])
def test_what_cannot_be_loaded_anew_leaves_what_runs(source: str, folder: Path) -> None:
    (folder / "one.py").write_text(ONE)
    running = known_plugins(folder)["one"].load()
    (folder / "one.py").write_text(source)
    problems_of(PluginEntry("one"), known=known_plugins(folder))
    assert vars(sys.modules[running.__module__])["One"] is running


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = 1\ndef\n", "SyntaxError: invalid syntax (FILE, line 2)"),
        ("def deep():\n    import json\n    json.loads('{')\n\ndeep()\n", " (FILE, line 3)"),
        (ONE + "    def __init__(self, host, settings):\n        1 / 0\n", "division by zero (FILE, line 9)"),
        (ONE + "    def __init__(self): ...\n", " (FILE)"),
        ("class Own(BaseException): ...\nraise Own('odd')\n", ": Own: odd (FILE, line 2)"),
        ("class Own(Exception):\n    def __str__(self): return 1 / 0\nraise Own\n", ": Own (FILE, line 3)"),
    ],
)
def test_who_wrote_a_plugin_reads_where_it_breaks(source: str, says: str, folder: Path) -> None:
    (folder / "odd.py").write_text(source)
    (problem,) = problems_of(PluginEntry("odd"), known=known_plugins(folder))
    assert problem.endswith(says.replace("FILE", str(folder / "odd.py")))


def test_bytecode_beside_a_plugin_is_not_run(folder: Path) -> None:
    """Its folder may be one that others write to, and what it says of its source can be forged."""
    path = folder / "one.py"
    path.write_text(ONE.replace("From a file.", "From a pyc ."))
    py_compile.compile(str(path), doraise=True)
    before = path.stat()
    path.write_text(ONE)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known_plugins(folder)["one"].load().about == "From a file."


def test_a_link_into_a_folder_of_others_is_not_followed(folder: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "one.py").write_text(ONE)
    (folder / "one.py").symlink_to(shared / "one.py")
    assert known_plugins(folder)["one"].load().__name__ == "One"
    shared.chmod(0o777)
    with pytest.raises(PluginsUnusable, match=f'chmod go-w {shared}"'):
        known_plugins(folder)["one"].load()


def test_which_of_two_packages_is_meant_is_not_for_us_to_guess(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    points = [EntryPoint("one", f"{name}:One", loader.GROUP) for name in ("first", "second")]
    monkeypatch.setattr(loader, "entry_points", lambda group: points)
    (problem,) = problems_of(PluginEntry("one"), known=known_plugins(folder))
    assert 'several packages offer a plugin "one": first:One, second:One.' in problem
    (folder / "one.py").write_text(ONE)
    assert known_plugins(folder)["one"].load().about == "From a file."


def test_an_entry_point_may_be_a_module_of_one_or_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("module", "elemta.plugins.milter.plugin", loader.GROUP),
        EntryPoint("function", "os.path:join", loader.GROUP),
        EntryPoint("gone", "elemta.nothing:Plugin", loader.GROUP),
    ]
    monkeypatch.setattr(loader, "entry_points", lambda group: points)
    known = known_plugins(None)
    assert known["module"].load().__name__ == "Milter"
    with pytest.raises(ImportError, match="no class derived from Plugin"):
        known["function"].load()
    with pytest.raises(ModuleNotFoundError):
        known["gone"].load()
    assert known["function"].where == "os.path:join", "a package without a name is known by what it says"


# ---- the shape of a class ------------------------------------------------------------------------


class Sound(Plugin):
    on_error = OnError.DEFER

    async def on_data_complete(self, mail: Mail) -> Verdict:
        return CONTINUE


class Misspelt(Plugin):
    async def on_data_completed(self, mail: Mail) -> Verdict:
        return CONTINUE


class Unlike(Plugin):
    async def on_full_moon(self) -> Verdict:
        return CONTINUE


class Plain(Plugin):
    def on_connect(self, session: object) -> Verdict:  # type: ignore[override]  # what is tried
        return CONTINUE


class BlockingAsync(Plugin):
    blocking = True

    async def on_connect(self, session: object) -> Verdict:
        return CONTINUE


class BlockingPlain(Plain):
    blocking = True


@frozen
class Unkinded:
    number: int = 3


@frozen
class Listed:
    numbers: tuple[int, ...] = ()


@frozen
class Forward:
    text: "str" = ""


class WithPlainNumbers(Plugin):
    settings_class = Unkinded


class WithListsOfThem(Plugin):
    settings_class = Listed


class WithTexts(Plugin):
    settings_class = Forward


class WithADict(Plugin):
    settings_class = dict


class WithWordsForFigures(Plugin):
    priority = "high"  # type: ignore[assignment]  # what is tried


class WithoutADeadline(Plugin):
    deadline = None  # type: ignore[assignment]  # what is tried


class InTheWordsOfTheConfiguration(Plugin):
    on_error = "defer"  # type: ignore[assignment]  # what is tried


@pytest.mark.parametrize(
    ("plugin", "says"),
    [
        (Sound, ""),
        (WithWordsForFigures, "its priority is a whole number, not 'high'."),
        (WithoutADeadline, "its deadline is a number of seconds above 0, not None."),
        (InTheWordsOfTheConfiguration, "its on_error is OnError.ACCEPT, "),
        (BlockingPlain, ""),
        (Misspelt, "there is no hook on_data_completed. Did you mean on_data_complete?"),
        (Unlike, "there is no hook on_full_moon."),
        (Plain, "on_connect is no async def; where it blocks, let the class say blocking = True."),
        (BlockingAsync, "it is blocking, so on_connect is a plain def, not an async one."),
        (WithPlainNumbers, "nobody can check its setting number: annotate it"),
        (WithListsOfThem, "nobody can check its setting numbers: annotate it"),
        (WithTexts, "nobody can check its setting text: annotate it"),
        (WithADict, "its settings_class is no attrs class."),
    ],
)
def test_slips_of_the_pen_are_seen_before_the_first_client(plugin: type[Plugin], says: str) -> None:
    if not says:
        assert list(shape_problems(plugin)) == []
        return
    (problem,) = problems_of(PluginEntry("mine"), known=found(mine=plugin))
    assert problem.startswith('plugins.plugins[0]: the plugin "mine": ')
    assert says in problem


# ---- the configuration ---------------------------------------------------------------------------


@frozen
class Settings:
    limit: Annotated[int, Whole("mails", 1, 9), About("How many.")]
    name: Annotated[Words, About("Whose.")] = "jo"
    loud: Annotated[Bool, About("Whether it is told.")] = False


class Configured(Sound):
    settings_class = Settings
    priority = 60
    deadline = 4.0


class Exploding(Sound):
    def __init__(self, host: object, settings: object = None) -> None:
        raise OSError("no such device")


def test_a_plugin_is_made_as_it_says_and_as_the_configuration_says_before() -> None:
    known = found(configured=Configured)
    (plain,) = load_plugins(wanted_of([PluginEntry("configured", settings={"limit": 2})]), known, host_of)
    assert (plain.name, plain.priority, plain.deadline, plain.on_error) == ("configured", 60, 4.0, OnError.DEFER)
    assert plain.plugin.settings == Settings(2)
    entry = PluginEntry("other", True, 3, 1.5, PluginFailure.REJECT, {"limit": 9, "loud": True}, "configured")
    (other,) = load_plugins(wanted_of([entry]), known, host_of)
    assert (other.name, other.priority, other.deadline, other.on_error) == ("other", 3, 1.5, OnError.REJECT)
    assert other.plugin.settings == Settings(9, "jo", True)


def test_what_is_turned_off_is_not_asked_for() -> None:
    assert wanted_of([PluginEntry("gone", enabled=False)]) == []


def test_a_section_of_its_own_is_given_as_it_is() -> None:
    wanted = Wanted(PluginEntry("configured"), "own.section", Settings(5))
    (member,) = load_plugins([wanted], found(configured=Configured), host_of)
    assert member.plugin.settings == Settings(5)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (PluginEntry("configured"), ["plugins.plugins[0]: settings.limit: this key is missing."]),
        (
            PluginEntry("configured", settings={"limit": 0, "loud": "yes", "nam": "max"}),
            [
                'plugins.plugins[0]: settings.nam: there is no such key. Did you mean "name"?',
                "plugins.plugins[0]: settings.limit: expected a whole number of mails from 1 to 9.",
                "plugins.plugins[0]: settings.loud: expected true or false.",
            ],
        ),
        (
            PluginEntry("sound", settings={"limit": 1}),
            ['plugins.plugins[0]: the plugin "sound" has no settings; take "settings" away.'],
        ),
        (
            PluginEntry("configure"),
            ['plugins.plugins[0]: there is no plugin named "configure". Did you mean "configured"?'],
        ),
        (
            PluginEntry("zzz"),
            ['plugins.plugins[0]: there is no plugin named "zzz". "elemta plugin list" shows those that there are.'],
        ),
        (
            PluginEntry("exploding"),
            ["plugins.plugins[0]: the plugin 'exploding' cannot be loaded: OSError: no such device (the test)"],
        ),
    ],
)
def test_what_is_wrong_is_said_by_key(entry: PluginEntry, says: list[str]) -> None:
    known = found(configured=Configured, sound=Sound, exploding=Exploding)
    assert sorted(problems_of(entry, known=known)) == sorted(says)


def test_everything_is_said_at_once_and_twice_the_same_is_wrong() -> None:
    entries = [PluginEntry("sound"), PluginEntry("gone"), PluginEntry("sound"), PluginEntry("exploding")]
    problems = problems_of(*entries, known=found(sound=Sound, exploding=Exploding))
    assert [problem.partition(":")[0] for problem in problems] == [f"plugins.plugins[{index}]" for index in (1, 2, 3)]
    assert "stands twice in the configuration" in problems[1]


def test_one_plugin_under_two_names() -> None:
    entries = [PluginEntry("sound"), PluginEntry("second", plugin="sound")]
    members = load_plugins(wanted_of(entries), found(sound=Sound), host_of)
    assert [member.name for member in members] == ["sound", "second"]
    assert members[0].plugin is not members[1].plugin
