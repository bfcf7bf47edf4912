"""How many clients log in a second, and how long each waits.

Users are in a SQLite file; each login is a connection of its own on loopback, in the clear, so that what is measured is
AUTH and not TLS. What is not here: the client, a process of its own (`login_client`), or handshakes (`encryption`).
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from elemta.testing.process import ServerProcess
from tests.bench import login_client
from tests.bench.login_client import Plan
from tests.bench.servers import CASE_SECONDS, LIMITS, place
from tests.bench.tables import Samples

#: name → (seconds that a right password is remembered, logins)
CASES = {"remembered": (300, 2000), "hashed each time": (0, 100)}
FIGURES = {"rate": "logins/s", "p50": "AUTH p50 ms"}
ROWS = [f"{case}: {figure}" for case in CASES for figure in FIGURES.values()]


@contextmanager
def server(folder: Path, remembered_seconds: float) -> Iterator[int]:
    """A server with one user; its port."""
    config = {
        "hostname": "elemta.example.com",
        "auth": {
            "enabled": True,
            "datasource_path": str(folder / "users.db"),
            "credential_cache": remembered_seconds,
        },
        "listeners": [{"address": "127.0.0.1:0", "auth": True}],
        "routes": [{"domain": "*", "transport": "discard"}],
        "limits": LIMITS,
    }
    process = ServerProcess(folder, config)
    command = [sys.executable, "-m", "elemta", "user", "add", "-c", str(folder / "elemta.conf"), Plan.user]
    subprocess.run(command, check=True, input=f"{Plan.password}\n", text=True, stdout=subprocess.DEVNULL, timeout=60)
    with process as running:
        yield running.port
        running.stop()


def timed(port: int, logins: int) -> dict[str, float]:
    """Run one case in a client of its own; what `login_client.Figures` holds."""
    command = [sys.executable, str(Path(login_client.__file__)), str(port), "--logins", str(logins)]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=CASE_SECONDS)
    figures: dict[str, float] = json.loads(ended.stdout)
    return figures


def measure_logins(rounds: int) -> Samples:
    """A sample a round for each row of `ROWS`."""
    samples: Samples = {}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("logins", total=rounds * len(CASES))
        for _ in range(rounds):
            for case, (seconds, logins) in CASES.items():
                with place() as folder, server(folder, seconds) as port:
                    timed(port, 10)
                    for key, value in timed(port, logins).items():
                        samples.setdefault((f"{case}: {FIGURES[key]}", "elemta"), []).append(value)
                progress.advance(task)
    return samples
