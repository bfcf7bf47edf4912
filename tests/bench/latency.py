"""How long a client waits for its 250, by server.

Two loads: full speed, where ten sessions wait for each other and the wait is little else than the reciprocal
of the throughput, then a steady rate, which every server can keep up with: that is what a client meets on a usual day.
What is not here: the client, which is a process of its own (`latency_client`), or the servers (`servers`).
"""

import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tests.bench import latency_client
from tests.bench.servers import CASE_SECONDS, aiosmtpd, elemta, load, place, postfix, sink
from tests.bench.tables import Samples

#: Mails a second of the steady load: under what the slowest of the servers can take, one connection a mail.
STEADY_RATE = 400
#: name → options of the client
CASES: dict[str, tuple[str, ...]] = {
    "full speed": (),
    "full speed, kept": ("--kept",),
    f"{STEADY_RATE}/s": ("--rate", str(STEADY_RATE)),
    f"{STEADY_RATE}/s, kept": ("--rate", str(STEADY_RATE), "--kept"),
}
#: what the client calls a figure → what the table calls it
FIGURES = {
    "dot_p50": "dot p50 ms",
    "dot_p99": "dot p99 ms",
    "mail_p50": "mail p50 ms",
    "mail_p99": "mail p99 ms",
    "rate": "mails/s",
    "cpu": "client CPU ms",
}
ROWS = [f"{case}: {figure}" for case in CASES for figure in FIGURES.values()]


def timed(port: int, case: str, mails: int) -> dict[str, float]:
    """Run one case in a client of its own; what `latency_client.Figures` holds."""
    command = [sys.executable, str(Path(latency_client.__file__)), str(port), "--mails", str(mails), *CASES[case]]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=CASE_SECONDS)
    figures: dict[str, float] = json.loads(ended.stdout)
    return figures


def measure_latency(rounds: int, mails: int) -> Samples:
    """A sample a round for each row of `ROWS` and each server, all servers in turn."""
    servers = {"elemta": elemta, "postfix": postfix, "aiosmtpd": aiosmtpd}
    samples: Samples = {}

    def note(case: str, server: str, figures: dict[str, float]) -> None:
        for key, name in FIGURES.items():
            samples.setdefault((f"{case}: {name}", server), []).append(figures[key])

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("latency", total=rounds * len(CASES) * (len(servers) + 1))
        for _ in range(rounds):
            for case in CASES:
                with sink() as (port, _):
                    note(case, "smtp-sink", timed(port, case, mails))
                progress.advance(task)
                for name, server in servers.items():
                    with place() as folder, server(folder) as port:
                        load(port, "S10 kept" if "kept" in case else "S10", max(10, mails // 20))
                        note(case, name, timed(port, case, mails))
                    progress.advance(task)
    return samples
