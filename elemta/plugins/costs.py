"""What each plugin cost: time, verdict, changes.

What is not here: measuring it (`plugins.chain`), or showing it (`cli`, `web`). Nothing here raises.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from math import isfinite
from typing import Final

from attrs import define

#: Plugins that are kept with a mail; a server has a handful.
MAX_KEPT: Final = 50
#: Seconds from which a plugin is named in the log line of a mail.
SLOW_SECONDS: Final = 0.1
#: Beyond this no number of ours is: what is read may be another's. What every reader of JSON keeps, RFC 8259 §6.
_MOST: Final = 2**53


@define
class Cost:
    """One plugin's share. `verdict` is the last one that was not "continue", or a failure's name."""

    seconds: float = 0.0
    verdict: str = "continue"
    changes: int = 0
    score: float = 0.0


class Ledger:
    """The costs of one session or one mail, by plugin, in the order of their first call.

    Those of a mail begin with what its session cost so far.
    """

    __slots__ = ("_before", "asked", "costs", "lost", "refusals", "score")

    def __init__(self, before: "Ledger | None" = None) -> None:
        #: The plugin that is being asked, or was last.
        self.asked = ""
        self.costs: dict[str, Cost] = {}
        self.score: float = 0.0 if before is None else before.score
        #: Of a session: how often its client was refused for good.
        self.refusals = 0
        #: Of a session: seconds that mails cost which were not taken.
        self.lost: dict[str, float] = {}
        self._before = before

    def of(self, plugin: str) -> Cost:
        """A plugin's share so far."""
        cost = self.costs.get(plugin)
        if cost is None:
            known = None if self._before is None else self._before.costs.get(plugin)
            cost = Cost() if known is None else Cost(known.seconds, known.verdict, known.changes, known.score)
            self.costs[plugin] = cost
        return cost

    def lose(self, mail: "Ledger") -> None:
        """A mail of this session was not taken: what it cost stands nowhere else."""
        for name, cost in mail.costs.items():
            own = self.costs[name].seconds if name in self.costs else 0.0
            self.lost[name] = self.lost.get(name, 0.0) + cost.seconds - own

    @property
    def slow(self) -> dict[str, float]:
        """Who delayed the session, with mails that were not taken, in seconds: for its log line."""
        seconds = dict(self.lost)
        for name, cost in self.costs.items():
            seconds[name] = seconds.get(name, 0.0) + cost.seconds
        return {name: round(each, 3) for name, each in seconds.items() if each >= SLOW_SECONDS}

    @property
    def all(self) -> Mapping[str, Cost]:
        """Every share, those of the session included."""
        return self.costs if self._before is None else {**self._before.costs, **self.costs}


def kept(costs: Mapping[str, Cost]) -> str:
    """The annotation's value: JSON, an object a plugin with `ms` and what is not usual."""
    return "{" + ",".join([_kept(name, cost) for name, cost in list(costs.items())[:MAX_KEPT]]) + "}"


def _kept(name: str, cost: Cost) -> str:
    if cost.verdict == "continue" and not cost.changes and not cost.score:
        # Nearly all; the JSON library takes three times as long.
        return f'{_quoted(name)}:{{"ms":{cost.seconds * 1000:.2f}}}'
    entry: dict[str, object] = {"ms": round(cost.seconds * 1000, 2), "verdict": cost.verdict}
    entry |= {"changes": cost.changes, "score": round(cost.score, 2)}
    told = {key: value for key, value in entry.items() if value not in (0, "continue")}
    return f"{_quoted(name)}:{json.dumps(told, separators=(',', ':'))}"


def read_kept(annotation: str) -> Mapping[str, Cost]:
    """What `kept` wrote, to the hundredth of a millisecond. Of what somebody else wrote as much as makes sense."""
    try:
        document = json.loads(annotation)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    return {name: _read(entry) for name, entry in list(document.items())[:MAX_KEPT] if isinstance(entry, dict)}


def _read(entry: Mapping[str, object]) -> Cost:
    verdict = entry.get("verdict", "continue")
    return Cost(
        seconds=_number(entry.get("ms")) / 1000,
        verdict=verdict if isinstance(verdict, str) else "continue",
        changes=int(_number(entry.get("changes"))),
        score=_number(entry.get("score")),
    )


def _number(value: object) -> float:
    return value if isinstance(value, int | float) and abs(value) < _MOST and isfinite(value) else 0.0


@lru_cache(maxsize=100)  # the plugins of a server
def _quoted(name: str) -> str:
    return json.dumps(name)


def slow(costs: Mapping[str, Cost]) -> dict[str, float]:
    """Who delayed the mail, in seconds: for its log line."""
    return {name: round(cost.seconds, 3) for name, cost in costs.items() if cost.seconds >= SLOW_SECONDS}
