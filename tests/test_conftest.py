"""The promises of conftest.py itself, seen in the outcomes of a small project that relies on them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

Project = Callable[[], pytest.RunResult]

CONFTEST = Path(__file__).with_name("conftest.py")

RELIES_ON_IT = """
import os
import pytest
import trio
from hypothesis import given, strategies as st

async def test_async_body_runs():
    await trio.sleep(0)
    raise ValueError("async body")

@given(st.just(7))
async def test_async_property_runs(number):
    await trio.sleep(0)
    raise ValueError(f"property {number}")

@pytest.mark.needs("no-such-program")
def test_needs():
    pass

@pytest.mark.skip(reason="not today")
def test_marked_skip():
    pass

@pytest.mark.xfail(raises=ValueError)
def test_known_failure():
    raise ValueError

def test_settings_of_the_developer():
    assert "ELEMTA_QUEUE_DIR" not in os.environ

@pytest.mark.vector_files("*.smtp")
def test_vector(vector_file):
    assert vector_file.read_text()
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Run our conftest over `RELIES_ON_IT` in a process of its own, which takes itself to be at a desk."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("ELEMTA_TEST_VECTORS", raising=False)
    monkeypatch.setenv("ELEMTA_QUEUE_DIR", "/somewhere")
    tests = pytester.mkdir("tests")
    (tests / "conftest.py").write_text(CONFTEST.read_text())
    (tests / "test_it.py").write_text(RELIES_ON_IT)
    pytester.makeini("[pytest]\naddopts = --import-mode=importlib -ra\nmarkers =\n    needs\n    vector_files\n")
    return lambda: pytester.runpytest_subprocess("tests")


async def test_a_clock_among_the_arguments_is_the_clock_of_the_run(
    autojump_clock: trio.testing.MockClock,
) -> None:
    before = autojump_clock.current_time()
    await trio.sleep(86_400)
    assert autojump_clock.current_time() - before == 86_400


def test_at_a_desk_what_is_missing_is_skipped(project: Project) -> None:
    result = project()
    result.assert_outcomes(failed=2, skipped=3, xfailed=1, passed=1)
    result.stdout.fnmatch_lines_random(
        ["*ValueError: async body*", "*ValueError: property 7*", "*apt install no-such-program*"]
    )


def test_in_ci_nothing_is_skipped(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    result = project()
    outcomes = result.parseoutcomes()
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) == 4
    assert outcomes["deselected"] == 1  # the vectors, which nobody promised
    assert "skipped" not in outcomes
    result.stdout.fnmatch_lines_random(["*apt install no-such-program*", "*not today*"])


def test_in_ci_no_module_is_skipped(
    project: Project, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    (pytester.path / "tests" / "test_it.py").write_text("import pytest\npytest.importorskip('no_such')\n")
    result = project()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(errors=1)


def test_each_vector_is_a_test(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "one.smtp").write_text("QUIT")
    (tmp_path / "two.smtp").write_text("")
    monkeypatch.setenv("ELEMTA_TEST_VECTORS", str(tmp_path))
    project().assert_outcomes(failed=3, skipped=2, xfailed=1, passed=2)


def test_a_named_folder_of_vectors_must_exist(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELEMTA_TEST_VECTORS", "/no/such/folder")
    assert project().ret == pytest.ExitCode.USAGE_ERROR
