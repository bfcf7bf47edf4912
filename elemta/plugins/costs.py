"""What each plugin cost: time, verdict, changes.

What is not here: measuring it (`plugins.chain`), or showing it (`cli`, `web`). Nothing here raises.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from math import isfinite
from typing import Final

from attrs import define, evolve, frozen

#: Plugins that are kept with a mail; a server has a handful.
MAX_KEPT: Final = 50
#: Seconds from which a plugin is named in the log line of a mail.
SLOW_SECONDS: Final = 0.1
#: Seconds below which what a plugin took is nothing: 0.00 ms.
LEAST_SECONDS: Final = 0.000_005
#: Beyond this no number of ours is: what is read may be another's. What every reader of JSON keeps, RFC 8259 §6.
_MOST: Final = 2**53


@define
class Share:
    """What one plugin did that is not usual. `verdict` is the last one that was not "continue", or a failure's name."""

    verdict: str = "continue"
    changes: int = 0
    score: float = 0.0


@frozen
class Cost:
    """All of one plugin's share, as it is shown."""

    seconds: float = 0.0
    verdict: str = "continue"
    changes: int = 0
    score: float = 0.0


class Ledger:
    """The costs of one session or one mail, by plugin, in the order of their first call.

    Those of a mail begin with what its session cost so far. Of a plugin that goes on without a word there is a number
    alone: that is what nearly every call puts down here.
    """

    __slots__ = ("asked", "score", "seconds", "shares")

    def __init__(self, before: "Ledger | None" = None) -> None:
        #: The plugin that is being asked, or was last.
        self.asked = ""
        #: Every plugin that was asked, with what its calls took.
        self.seconds: dict[str, float] = {} if before is None else before.seconds.copy()
        #: Those that did more than to go on.
        self.shares: dict[str, Share] = {}
        self.score = 0.0
        if before is not None and before.shares:
            self.score = before.score
            self.shares = {name: evolve(share) for name, share in before.shares.items()}

    def of(self, plugin: str) -> Share:
        """A plugin's share, to put down what it did."""
        self.seconds.setdefault(plugin, 0.0)
        share = self.shares.get(plugin)
        if share is None:
            share = self.shares[plugin] = Share()
        return share

    def cost(self, plugin: str) -> Cost:
        """All of a plugin's share so far."""
        share = self.shares.get(plugin) or Share()
        return Cost(self.seconds.get(plugin, 0.0), share.verdict, share.changes, share.score)

    @property
    def slow(self) -> dict[str, float]:
        """Who delayed it, in seconds: for its log line."""
        return _slow(self.seconds)


class SessionLedger(Ledger):
    """The costs of one session, with what its mails cost that were not taken."""

    __slots__ = ("lost", "refusals")

    def __init__(self) -> None:
        super().__init__()
        #: How often the client was refused for good.
        self.refusals = 0
        #: Seconds of mails that were not taken, by plugin.
        self.lost: dict[str, float] = {}

    def lose(self, mail: Ledger) -> None:
        """A mail of this session was not taken: what it cost stands nowhere else."""
        for name, seconds in mail.seconds.items():
            self.lost[name] = self.lost.get(name, 0.0) + seconds - self.seconds.get(name, 0.0)

    @property
    def slow(self) -> dict[str, float]:
        """Who delayed the session, mails that were not taken included, in seconds: for its log line."""
        together = dict(self.lost)
        for name, seconds in self.seconds.items():
            together[name] = together.get(name, 0.0) + seconds
        return _slow(together)


def _slow(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(each, 3) for name, each in seconds.items() if each >= SLOW_SECONDS}


def kept(ledger: Ledger) -> str:
    """The annotation's value: JSON, an object a plugin with `ms` and whatever else is not usual."""
    shares = ledger.shares
    told = []
    for name, seconds in islice(ledger.seconds.items(), MAX_KEPT):
        if name in shares:
            told.append(_told(name, seconds, shares[name]))
        elif seconds < LEAST_SECONDS:
            told.append(_named(name))
        else:
            told.append(f'{_quoted(name)}:{{"ms":{seconds * 1000:.2f}}}')  # the JSON library takes three times as long
    return "{" + ",".join(told) + "}"


def _told(name: str, seconds: float, share: Share) -> str:
    entry: dict[str, object] = {"ms": round(seconds * 1000, 2), "verdict": share.verdict}
    entry |= {"changes": share.changes, "score": round(share.score, 2)}
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


@lru_cache(maxsize=100)  # as above
def _named(name: str) -> str:
    return f"{_quoted(name)}:{{}}"
