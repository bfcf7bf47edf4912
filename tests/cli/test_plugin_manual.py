"""docs/plugins.md, tried line by line: its files are written, its commands run, what they print is compared."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from elemta.inbound import plugged
from elemta.plugins import breaker, chain, costs, mail, tasks, verdicts
from elemta.plugins.api import DEADLINE_SECONDS, Plugin, Stage
from elemta.plugins.chain import VERDICTS

MANUAL = Path(__file__).parents[2] / "docs" / "plugins.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (plugins/\w+\.py)\n")


@pytest.fixture(scope="module")
def text() -> str:
    return MANUAL.read_text(encoding="utf-8")


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block, with what it prints."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(folder: Path, environ: dict[str, str]) -> Iterator[None]:
    """`elemta run` in the folder, once it serves."""
    server = subprocess.Popen(["elemta", "run"], cwd=folder, env=environ, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        for line in server.stderr:
            if "ready" in line and "plugins" not in line:
                break
        else:
            raise AssertionError("the server does not serve")
        yield
    finally:
        server.terminate()
        server.communicate(timeout=30)


@pytest.mark.slow
def test_every_block_does_what_it_says(text: str, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir(mode=0o755)
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "200"}
    run_commands = 0
    for kind, block in BLOCK.findall(text):
        if kind == "python":
            path = FILE.match(block)
            assert path is not None, "a block says which file it is"
            file = tmp_path / path[1]
            file.write_text(block)
            file.chmod(0o644)
        elif kind == "json":
            # Another server may have the document's port, and the web side's.
            own = {"listen_addr": f"127.0.0.1:{free_port()}", "web": {"enabled": False}}
            (tmp_path / "elemta.conf").write_text(json.dumps({**json.loads(block), **own}))
        elif kind == "console":
            for command, output in commands(block):
                run_commands += 1
                if "elemta send" in command:
                    with running(tmp_path, environ):
                        said = _said(command, tmp_path, environ)
                else:
                    said = _said(command, tmp_path, environ)
                assert said == output, command
    assert run_commands == 6


def _said(command: str, folder: Path, environ: dict[str, str]) -> str:
    ran = subprocess.run(["bash", "-c", command], cwd=folder, env=environ, capture_output=True, text=True, timeout=60)
    assert ran.stdout or ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_stage_and_verdict_has_a_row(text: str) -> None:
    rows = re.findall(r"^\| `on_(\w+)` \|.*\| (.*) \|$", text, re.MULTILINE)
    assert [name for name, _ in rows] == [stage.value for stage in Stage]
    for name, answers in rows:
        allowed = VERDICTS.get(Stage(name))
        assert (answers == "nothing") is (allowed is None)
        if not answers.startswith("all"):
            for word in ("reject", "defer", "quarantine", "discard"):
                assert (word in answers) is (word in {one.__name__.lower() for one in allowed or ()}), name
    for one in (verdicts.Reject, verdicts.Defer, verdicts.Discard, verdicts.Quarantine):
        assert f"| `{one.__name__}(" in text
    for change in verdicts.Change.__args__:
        assert f"`{change.__name__}(" in text


def test_figures_are_those_of_the_code(text: str) -> None:
    words = " ".join(text.split())
    assert breaker.FAILURES_TO_OPEN == 5
    for figure in (
        f"`deadline` ({DEADLINE_SECONDS:g} s)",
        f"left alone for {breaker.REST_SECONDS:g} seconds",
        f"{tasks.MAX_TASKS_OF_MAIL} for one mail, {tasks.MAX_TASKS_OF_PLUGIN} for one plugin",
        f"a line of more than {verdicts.MAX_LINE_OCTETS} octets",
        f"bodies below {verdicts.MAX_BODY_OCTETS // 2**20} MiB in all, recipients below {mail.MAX_RECIPIENTS}",
        f"annotations below {mail.MAX_ANNOTATIONS}",
        f"at most {verdicts.MAX_CHANGES} changes",
        f"`slow_plugins` ({costs.SLOW_SECONDS:g} seconds and more)",
        f"as the class says: {Plugin.priority}, {Plugin.deadline:g} s, `{Plugin.on_error.value}`",
    ):
        assert figure in words, figure
    assert (chain.BLOCKING_THREADS, plugged.GOODBYE_SECONDS, chain.FAILURE_LOG_SECONDS) == (4, 5.0, 10.0)
