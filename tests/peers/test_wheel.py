"""The wheel and the sdist: the same octets whoever builds them, and a wheel that runs where it is installed."""

import hashlib
import importlib.metadata
import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from elemta import __version__
from tests.conftest import ROOT

#: When the sources of a build were last changed, as far as the archives say: 2025-01-01.
EPOCH = 1_735_689_600
#: Milliseconds of a processor that `elemta --version` may take beside the bare interpreter.
START_MILLISECONDS = 200

#: What lies in a checkout and is no source.
NO_SOURCES = shutil.ignore_patterns(
    ".git", ".venv", ".tox", "__pycache__", ".*_cache", ".hypothesis", "dist", "build", "*.egg-info"
)


def build(source: Path, target: Path) -> list[Path]:
    """The sdist and the wheel of a source tree."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(target)]
    environ = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
    subprocess.run(command, cwd=source, env=environ, check=True, capture_output=True, timeout=120)
    return sorted(target.iterdir())


def digests(paths: Iterable[Path]) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that a build leaves nothing behind and sees the same files as the next one."""
    copy = tmp_path_factory.mktemp("source") / "elemta"
    shutil.copytree(ROOT, copy, ignore=NO_SOURCES)
    return copy


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build(source, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(built: list[Path]) -> Path:
    (path,) = [path for path in built if path.suffix == ".whl"]
    return path


@pytest.fixture(scope="module")
def sdist(built: list[Path]) -> Path:
    (path,) = [path for path in built if path.name.endswith(".tar.gz")]
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it, and nothing else of its own.

    What the wheel depends on is lent by the environment of the tests, where pip has installed it by the same metadata.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.EnvBuilder(symlinks=True).create(folder)
    python = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", "-q", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, timeout=120)
    (site,) = (folder / "lib").glob("python*/site-packages")
    # At the end of the path: only what the wheel has not is found there.
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run(installed: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    program = str(installed / "bin" / command[0])
    return subprocess.run(
        [program, *command[1:]],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=installed,
        env={**os.environ, **environ},
    )


# ---- building ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_builds_are_the_same(source: Path, built: list[Path], tmp_path: Path) -> None:
    """From another folder, of files with other times and permissions."""
    again = tmp_path / "another place"
    shutil.copytree(source, again, copy_function=shutil.copyfile)
    for path in again.rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            os.utime(path, (1, 1_000_000_000))
    assert digests(build(again, tmp_path / "dist")) == digests(built)


def test_the_sources_are_in_the_sdist(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "elemta/__main__.py",
        "docs/elemta.1",
        "tests/conftest.py",
    } <= names
    assert not [name for name in names if ".venv" in name or "__pycache__" in name or name.startswith("queue")]


@pytest.mark.slow
def test_the_sdist_makes_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert digests(build(folder, tmp_path / "dist"))[wheel.name] == digests([wheel])[wheel.name]


def test_what_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert f"elemta-{__version__}.data/data/share/man/man1/elemta.1" in names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"elemta", f"elemta-{__version__}.dist-info", f"elemta-{__version__}.data"}


# ---- running -------------------------------------------------------------------------------------


def test_it_runs_where_it_is_installed(installed: Path, tmp_path: Path) -> None:
    where = run(installed, "python", "-c", "import elemta; print(elemta.__file__)")
    assert where.stdout.startswith(str(installed)), where
    assert run(installed, "elemta", "--version").stdout == f"elemta {__version__}\n"
    config = tmp_path / "elemta.conf"
    config.write_text('{"hostname": "mail.example.com", "queue_dir": "queue"}')
    checked = run(installed, "elemta", "config", "check", "-c", str(config))
    assert checked.returncode == 0, checked.stderr
    assert run(installed, "elemta-sendmail", "-z").returncode == 64
    assert (installed / "share" / "man" / "man1" / "elemta.1").is_file()


def test_what_it_depends_on_is_there() -> None:
    """Each package that the metadata names is one that these tests run with."""
    for requirement in importlib.metadata.requires("elemta") or []:
        name = requirement.partition(">")[0].partition("[")[0].strip()
        assert importlib.metadata.version(name), requirement


def test_it_starts_quickly(installed: Path) -> None:
    """As a whole process, beside the bare interpreter: the best of several, of a processor's time."""

    def milliseconds(*command: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run(installed, *command).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    bare = min(milliseconds("python", "-c", "") for _ in range(5))
    whole = min(milliseconds("elemta", "--version") for _ in range(5))
    print(f"elemta --version: {whole:.0f} ms, the bare interpreter {bare:.0f} ms")  # noqa: T201  # the figure of a run
    assert whole - bare <= START_MILLISECONDS
