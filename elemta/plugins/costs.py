"""What each plugin cost: time, verdict, changes.

What is not here: measuring it (`plugins.chain`), or showing it (`cli`, `web`).
"""

import json
from collections.abc import Mapping
from typing import Final

from attrs import define

#: Under which annotation the costs are kept with the mail.
COSTS_KEY: Final = "plugins"
#: Plugins that are kept with a mail; a server has a handful.
MAX_KEPT: Final = 50
#: Seconds from which a plugin is named in the log line of a mail.
SLOW_SECONDS: Final = 0.1


@define
class Cost:
    """One plugin's share. `verdict` is the last one that was not "continue", or a failure's name."""

    seconds: float = 0.0
    verdict: str = "continue"
    changes: int = 0
    score: float = 0.0


class Ledger:
    """The costs of one session or one mail, by plugin, in the order of their first call."""

    __slots__ = ("asked", "costs", "score")

    def __init__(self, score: float = 0.0) -> None:
        #: The plugin that is being asked, or was last.
        self.asked = ""
        self.costs: dict[str, Cost] = {}
        self.score = score

    def of(self, plugin: str) -> Cost:
        """A plugin's share so far."""
        cost = self.costs.get(plugin)
        if cost is None:
            cost = self.costs[plugin] = Cost()
        return cost


def merged(*ledgers: Ledger) -> dict[str, Cost]:
    """The costs of a session and of a mail as one."""
    found: dict[str, Cost] = {}
    for ledger in ledgers:
        for name, cost in ledger.costs.items():
            known = found.get(name)
            if known is None:
                found[name] = Cost(cost.seconds, cost.verdict, cost.changes, cost.score)
                continue
            known.seconds += cost.seconds
            known.changes += cost.changes
            known.score += cost.score
            if cost.verdict != "continue":
                known.verdict = cost.verdict
    return found


def kept(costs: Mapping[str, Cost]) -> str:
    """The annotation's value: JSON, an object a plugin with `ms` and what is not usual."""
    told: dict[str, dict[str, object]] = {}
    for name, cost in list(costs.items())[:MAX_KEPT]:
        entry = told[name] = {"ms": round(cost.seconds * 1000, 2)}
        if cost.verdict != "continue":
            entry["verdict"] = cost.verdict
        if cost.changes:
            entry["changes"] = cost.changes
        if cost.score:
            entry["score"] = round(cost.score, 2)
    return json.dumps(told, separators=(",", ":"))


def slow(costs: Mapping[str, Cost]) -> dict[str, float]:
    """Who delayed the mail, in seconds: for its log line."""
    return {name: round(cost.seconds, 3) for name, cost in costs.items() if cost.seconds >= SLOW_SECONDS}
