"""What plugins that do nothing cost the acceptance of mail.

What is not here: what real plugins cost, which is their own. The same server without plugins and with five, in turn.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from elemta.testing.process import ServerProcess
from tests.bench.servers import CASES, LIMITS, load, place
from tests.bench.tables import Samples

#: As many as the promise speaks of.
PLUGINS = 5

_SOURCE = """
from elemta.plugins.api import CONTINUE, Plugin

class DoesNothing(Plugin):
    async def on_connect(self, session): return CONTINUE
    async def on_mail_from(self, mail): return CONTINUE
    async def on_rcpt_to(self, mail, recipient): return CONTINUE
    async def on_data_complete(self, mail): return CONTINUE
"""


def measure_plugins(cases: Sequence[str], rounds: int, mails: int) -> Samples:
    """Mails a second by case, with five plugins that do nothing and without."""
    rates: Samples = {}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("plugins", total=rounds * len(cases) * 2)
        for _ in range(rounds):
            for case in cases:
                count = max(20, int(mails * CASES[case][3]))
                for name, plugins in (("elemta", PLUGINS), ("without plugins", 0)):
                    rates.setdefault((case, name), []).append(_rate(case, count, plugins))
                    progress.advance(task)
    return rates


def _rate(case: str, count: int, plugins: int) -> float:
    with place() as folder, ServerProcess(folder, _config(folder, plugins)) as server:
        load(server.port, case, max(10, count // 20))
        rate = count / load(server.port, case, count)
        server.stop()
        return rate


def _config(folder: Path, plugins: int) -> dict[str, object]:
    names = [f"nothing{number}" for number in range(plugins)]
    own = folder / "plugins"
    own.mkdir()
    for name in names:
        (own / f"{name}.py").write_text(_SOURCE)
    return {
        "hostname": "elemta.example.com",
        "allowed_relays": ["127.0.0.1"],
        "routes": [{"domain": "*", "transport": "discard"}],
        "limits": LIMITS,
        "plugins": {"plugin_path": str(own), "plugins": names},
    }
