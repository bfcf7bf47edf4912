"""Runs flake8-async over every file that holds a coroutine: `python tests/checks/async_rules.py`.

Inside flake8 it looks at every file, coroutine or not, and takes three times as long. Both halves run side by side.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: The 9xx rules want a checkpoint on every path of every coroutine. 114 and 128 misread services that hand their
#: `task_status` on; 124 misreads fakes that must be `async` by their Protocol; 127 is a word about httpx, which
#: pyproject.toml chooses.
DISABLED = "ASYNC9,ASYNC114,ASYNC124,ASYNC127,ASYNC128"


def main() -> int:
    """0 when no rule is broken."""
    processes = []
    for folder in ("elemta", "tests"):
        files = [str(path) for path in sorted((ROOT / folder).rglob("*.py")) if "async def" in path.read_text("utf-8")]
        command = [str(Path(sys.executable).with_name("flake8-async")), "--disable", DISABLED, *files]
        processes.append(subprocess.Popen(command, cwd=ROOT))
    return max(process.wait() for process in processes)


if __name__ == "__main__":
    sys.exit(main())
