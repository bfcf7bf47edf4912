"""What leaving alone what is there at the start saves: `runtime.garbage.settle`, with it and without, in turn.

Run: `python -m tests.bench.bench_garbage [--rounds 5] [--mails 8000]`. S50 kept of `bench_server`. First what one look
of the collector at everything takes, in a process that has imported what a server does.
"""

import argparse
import gc
import statistics
import time
from importlib import import_module

from elemta.testing.process import ServerProcess
from tests.bench.servers import LIMITS, load, place
from tests.peers.wire import cpu_seconds

CASE = "S50 kept"
CONFIG = {
    "hostname": "elemta.example.com",
    "allowed_relays": ["127.0.0.1"],
    "routes": [{"domain": "*", "transport": "discard"}],
    "limits": LIMITS,
}
#: What a running server has imported.
MODULES = ("elemta.supervisor.process", "elemta.web.app", "elemta.web.serve", "elemta.cli.main")


class Unsettled(ServerProcess):
    """A server whose collector goes through everything, as Python has it."""

    program = (
        "-c",
        "import elemta.supervisor.serving as serving; serving.settle = lambda: None\n"
        "from elemta.cli.main import main; main()",
    )


def measured(kind: type[ServerProcess], mails: int) -> tuple[float, float]:
    """Mails a second, and microseconds of processor time for one."""
    with place() as folder, kind(folder, CONFIG) as server:
        load(server.port, CASE, max(10, mails // 20))
        before = cpu_seconds(server.pid)
        seconds = load(server.port, CASE, mails)
        cpu = cpu_seconds(server.pid) - before
        server.stop()
        return mails / seconds, cpu / mails * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mails", type=int, default=8000)
    chosen = parser.parse_args()
    for module in MODULES:
        import_module(module)
    gc.collect()
    begin = time.perf_counter()
    gc.collect()
    print(f"one look: {len(gc.get_objects())} objects, {(time.perf_counter() - begin) * 1000:.0f} ms")
    kinds = {"settled": ServerProcess, "as Python has it": Unsettled}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for _ in range(chosen.rounds):
        for name, kind in kinds.items():
            found[name].append(measured(kind, chosen.mails))
    for name, rounds in found.items():
        rate, cpu = (statistics.median(figures) for figures in zip(*rounds, strict=True))
        print(f"{name}: {rate:.0f} mails a second, {cpu:.0f} µs of processor time a mail")


if __name__ == "__main__":
    main()
