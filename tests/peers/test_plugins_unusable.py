"""Promise 30 for plugins that break where their own code runs: the start ends, and names file and line.

What is not here: entries and settings that do not fit (`test_plugged_server`), every way to break (`tests/plugins`).
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers.test_bad_configuration import refused, with_keys
from tests.peers.test_plugged_server import plugin

BROKEN = {
    "syntax": ("    async def on_helo(self, session)\n        return CONTINUE\n", "SyntaxError"),
    "import": ("    about = {}['about']\n", "KeyError: 'about'"),
    "construction": ("    def __init__(self, host, settings):\n        host.nothing()\n", "AttributeError"),
    "start": ("    async def start(self):\n        open('/nowhere/socket')\n", "/nowhere/socket"),
    "figures": ("    deadline = '5s'\n", "its deadline is a number of seconds above 0, not '5s'"),
}


@pytest.mark.parametrize("what", list(BROKEN))
def test_what_breaks_is_named_with_its_line(what: str, tmp_path: Path) -> None:
    body, word = BROKEN[what]
    stop = "\n    async def stop(self):\n        raise AssertionError('it never started')\n"
    entry = plugin(tmp_path, "own", body + stop)
    said = refused(tmp_path, with_keys(plugins={"plugins": [entry]}))
    assert word in said
    if what != "figures":
        assert "plugins/own.py, line " in said
    assert "never started" not in said
    command = [sys.executable, "-m", "elemta", "plugin", "check", "-o", "json"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert checked.returncode == (0 if what == "start" else 78), "nothing is started"
    errors = [error["message"] for error in json.loads(checked.stdout)["errors"]]
    assert all(error in said for error in errors), "the same words"
    assert bool(errors) is (what != "start")
