"""Pytest set-up that every suite shares.

- Suites: the folder of a test decides its suite (`SUITE_OF_FOLDER`, else `unit`); `--suite NAME` runs one.
- `async def` tests run under `trio.run`, on the clock among their arguments (`autojump_clock`) if any.
- `needs` finds the programs of Debian that a test talks to, `vectors` the published test vectors.
- Under `CI=true` nothing is skipped: a test that skips itself there has failed.

Fixtures are synchronous. What a test shares with users of Elemta belongs in `elemta.testing`, not here.
"""

import functools
import inspect
import io
import os
import shutil
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import trio
import trio.testing
from coverage import Coverage
from coverage.exceptions import CoverageException, CoverageWarning
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[1]
UNDER_CI = os.environ.get("CI") == "true"

SUITE_OF_FOLDER = {
    "bench": "bench",
    "campaign": "campaign",
    "checks": "checks",
    "datasource": "stores",
    "peers": "peers",
    "simulation": "simulation",
    "storage": "stores",
    "users": "stores",
}
SUITES = ("checks", "unit", "stores", "simulation", "peers", "bench", "campaign")  # the order of a run
ON_DEMAND = frozenset({"bench", "campaign"})  # run only when named
MEASURED = frozenset({"checks", "unit"})  # suites under branch coverage; the others would pay for it in time
#: Files of peers in which nothing is measured: whichever process is free may run them.
UNTIMED_PEERS = frozenset(
    {"test_container.py", "test_haproxy.py", "test_milter.py", "test_scanners.py", "test_sending.py", "test_wheel.py"}
)
BUDGET_SECONDS = {"unit": 420, "stores": 240, "simulation": 240, "peers": 840}

PACKAGE_OF_PROGRAM = {
    "buildah": "buildah",
    "caddy": "caddy",
    "clamd": "clamav-daemon",
    "curl": "curl",
    "dovecot": "dovecot-lmtpd",
    "groff": "groff-base",
    "haproxy": "haproxy",
    "mmdebstrap": "mmdebstrap",
    "named": "bind9",
    "nmap": "nmap",
    "nsenter": "util-linux",
    "opendkim": "opendkim",
    "opendkim-genkey": "opendkim-tools",
    "openssl": "openssl",
    "pebble": "pebble",
    "pebble-challtestsrv": "pebble",
    "podman": "podman",
    "postfix": "postfix",
    "runc": "runc",
    "rspamd": "rspamd",
    "smtp-sink": "postfix",
    "smtp-source": "postfix",
    "spamd": "spamd",
    "strace": "strace",
    "swaks": "swaks",
    "systemd-analyze": "systemd",
    "unshare": "util-linux",
}
SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")  # where Debian keeps servers; not on the PATH of ordinary users

hypothesis.settings.register_profile("desk", deadline=None)
hypothesis.settings.register_profile("fast", deadline=None, max_examples=15)
hypothesis.settings.register_profile("campaign", deadline=None, max_examples=10_000)
# Under CI hypothesis chooses its own profile `ci`: the same examples every time, no deadline.
if "HYPOTHESIS_PROFILE" in os.environ or not UNDER_CI:
    hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "desk"))

# ---- suites --------------------------------------------------------------------------------------


def suite_of(path: Path) -> str:
    """Name the suite of a file or folder below `tests/`."""
    parts = path.relative_to(ROOT / "tests").parts
    return SUITE_OF_FOLDER.get(parts[0], "unit") if parts else "unit"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--suite", choices=SUITES, help="run one suite; without it all but bench and campaign")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SuiteFigures(), "suite-figures")
    # A developer's own settings must not reach the servers that tests start.
    for name in [name for name in os.environ if name.startswith("ELEMTA_")]:
        if not name.startswith("ELEMTA_TEST_"):
            del os.environ[name]
    vectors_folder()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the files of other suites before they are imported."""
    if collection_path.is_dir() or not collection_path.is_relative_to(ROOT / "tests"):
        return None
    suite = suite_of(collection_path)
    wanted: str | None = config.getoption("--suite")
    if wanted is not None:
        return True if suite != wanted else None
    named = (Path(config.invocation_params.dir, arg.partition("::")[0]).resolve() for arg in config.args)
    if suite in ON_DEMAND and not any(path.is_relative_to(ROOT / "tests" / suite) for path in named):
        return True
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    order = tuple(reversed(SUITES)) if hasattr(config, "workerinput") else SUITES  # in a shared run the longest first
    items.sort(key=lambda item: order.index(suite_of(item.path)))
    if UNDER_CI and vectors_folder() is None:
        need_vectors = [item for item in items if "vectors" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=need_vectors)
        items[:] = [item for item in items if item not in need_vectors]


class OneProcessForPeers(LoadScopeScheduling):  # type: ignore[misc]  # ships no types
    """How processes share a run (`-n 2`): a file is one's; so are all peers that would find each other's load."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        together = suite_of(ROOT / file) == "peers" and Path(file).name not in UNTIMED_PEERS
        return "peers" if together else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneProcessForPeers:
    return OneProcessForPeers(config, log)


class SuiteFigures:
    """The figures at the end of a run: time by suite beside its budget, branch coverage of the pure rooms."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.coverage = Coverage.current()  # there when the run was started by `coverage run`

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self.coverage is not None and suite_of(item.path) not in MEASURED:
            self.coverage.stop()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        suite = suite_of(ROOT / report.nodeid.partition("::")[0])
        self.seconds[suite] = self.seconds.get(suite, 0.0) + report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.coverage is not None:
            terminalreporter.section("branch coverage of the pure rooms by their own tests")
            terminalreporter.write_line(coverage_table(self.coverage))
        if self.seconds:
            terminalreporter.section("time by suite")
        for suite, seconds in self.seconds.items():
            budget = BUDGET_SECONDS.get(suite)
            against = "" if budget is None else f" of {budget} s{'  OVER BUDGET' if seconds > budget else ''}"
            terminalreporter.write_line(f"{suite:12}{seconds:8.1f} s{against}")


def coverage_table(coverage: Coverage) -> str:
    """Render coverage's report with paths as in the repository, wherever the package is installed."""
    coverage.stop()
    table = io.StringIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CoverageWarning)  # a run of few tests may import nothing of Elemta
            coverage.report(file=table)
    except CoverageException as error:
        return f"no figures: {error}"
    lines = table.getvalue().splitlines()
    surplus = max((line.find("elemta/") for line in lines), default=0)  # the road to site-packages
    if surplus <= 0:
        return table.getvalue()
    heading = len("TOTAL")
    return "\n".join(
        line[:heading] + line[heading + surplus :] if line.startswith(("Name", "TOTAL")) else line[surplus:]
        for line in lines
        if line.startswith(("Name", "TOTAL", "---")) or "elemta/" in line
    )


# ---- nothing is skipped in CI --------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if UNDER_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI skips nothing: {call.excinfo.value if call.excinfo else ''}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if UNDER_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped while it was collected, and CI skips nothing: {report.longrepr}"
    return report


# ---- async tests ---------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    function = pyfuncitem.obj
    if inspect.iscoroutinefunction(function):
        arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
        under_trio(function)(**arguments)
        return True
    property_test = getattr(function, "hypothesis", None)
    if property_test is not None and inspect.iscoroutinefunction(property_test.inner_test):
        property_test.inner_test = under_trio(property_test.inner_test)  # each example is a run of its own
    return None


def under_trio(function: Callable[..., Any]) -> Callable[..., None]:
    """Make a coroutine function an ordinary one: each call is one `trio.run`."""

    def run(*args: Any, **kwargs: Any) -> None:
        clock = next((value for value in kwargs.values() if isinstance(value, trio.abc.Clock)), None)
        trio.run(functools.partial(function, *args, **kwargs), clock=clock)

    # Not `wraps`: its __wrapped__ would show pytest a coroutine function again.
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    return run


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """A virtual clock that jumps to the next deadline whenever every task waits."""
    return trio.testing.MockClock(autojump_threshold=0)


# ---- what a test cannot do without ---------------------------------------------------------------


def find_program(program: str) -> Path:
    """Find a program, or skip the test (at a desk) or fail it (in CI) with the package to install."""
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS))
    found = shutil.which(program, path=search)
    if found is not None:
        return Path(found)
    message = f"needs {program}: apt install {PACKAGE_OF_PROGRAM.get(program, program)}"
    if UNDER_CI:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for program in marker.args:
            find_program(program)


@pytest.fixture(scope="session")
def needs() -> Callable[[str], Path]:
    """A function from the name of a program to its path; see `find_program`."""
    return find_program


def vectors_folder() -> Path | None:
    """The published vectors: where ELEMTA_TEST_VECTORS says, else beside the repository, else nowhere."""
    named = os.environ.get("ELEMTA_TEST_VECTORS")
    folder = Path(named) if named else ROOT.parent / "shared" / "vectors"
    if folder.is_dir():
        return folder
    if named:
        raise pytest.UsageError(f"ELEMTA_TEST_VECTORS names {named}, which is no folder")
    return None


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of published test vectors. Without one the test is skipped, in CI it is not collected."""
    folder = vectors_folder()
    if folder is None:
        pytest.skip("needs published test vectors: ELEMTA_TEST_VECTORS names their folder")
    return folder


@pytest.fixture
def vector_file(request: pytest.FixtureRequest, vectors: Path) -> Path:
    """One published vector, chosen by the marker `vector_files`."""
    return vectors / str(request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "vector_file" not in metafunc.fixturenames:
        return
    folder = vectors_folder()
    patterns = [pattern for mark in metafunc.definition.iter_markers("vector_files") for pattern in mark.args]
    found = sorted({path for pattern in patterns for path in folder.glob(pattern)}) if folder else []
    names = [path.relative_to(folder).as_posix() for path in found] if folder else ["absent"]
    if not names:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: no vector in {folder} matches {patterns}")
    metafunc.parametrize("vector_file", names, indirect=True)
