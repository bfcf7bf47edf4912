"""XDEBUG, the original's command for people who debug a client; in dev mode only.

What is not here: the gate that keeps it out of production (`smtp.server` answers 500 there).
Documented forms: `XDEBUG`, `XDEBUG SESSION|STATE|CONNECTION`, `XDEBUG CONTEXT [GET k|SET k v|DELETE k|CLEAR]`,
`XDEBUG HELP`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

from elemta.inbound.transaction import Transaction
from elemta.mail.reply import Reply
from elemta.runtime.clock import Clock
from elemta.smtp.states import State

#: Entries of one session's context: enough for debugging, too few to fill memory with.
MAX_CONTEXT_ENTRIES = 100

_HELP = (
    "XDEBUG                        what the server knows of this session",
    "XDEBUG SESSION|STATE|CONNECTION  a part of it",
    "XDEBUG CONTEXT                all values kept with this session",
    "XDEBUG CONTEXT GET key        one value",
    "XDEBUG CONTEXT SET key value  keep a value",
    "XDEBUG CONTEXT DELETE key     forget a value",
    "XDEBUG CONTEXT CLEAR          forget all values",
)
_PARTS = {
    "SESSION": ("Client IP", "Hostname", "State", "Mail From", "Rcpt To"),
    "STATE": ("State", "Mail From", "Rcpt To"),
    "CONNECTION": ("Client IP", "Hostname"),
}


class DebugContext:
    """Values that a client keeps with its session, each with the time it was set."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._values: dict[str, tuple[str, float]] = {}

    def answer(self, arguments: tuple[str, ...], facts: Mapping[str, str]) -> Reply:
        """The reply to XDEBUG with these words; `facts` are names and values of the session."""
        word = arguments[0].upper() if arguments else ""
        if word == "CONTEXT":
            return self._context(arguments[1:])
        if word == "HELP":
            return Reply(214, "2.0.0", _HELP)
        if not word:
            rows = [f"{name}: {value}" for name, value in facts.items()]
            return Reply(214, "2.0.0", ("Debug information", *rows, *self._rows()))
        if word in _PARTS:
            return Reply(214, "2.0.0", (word.capitalize(), *(f"{name}: {facts[name]}" for name in _PARTS[word])))
        return Reply(501, "5.5.4", "unknown XDEBUG command, try XDEBUG HELP")

    def _context(self, arguments: tuple[str, ...]) -> Reply:
        match arguments:
            case ():
                return Reply(214, "2.0.0", ("Context", *self._rows()))
            case (verb, key) if verb.upper() == "GET" and key in self._values:
                return Reply(250, "2.0.0", self._row(key))
            case (verb, key) if verb.upper() in ("GET", "DELETE") and key not in self._values:
                return Reply(501, "5.5.4", "no such key")
            case (verb, key) if verb.upper() == "DELETE":
                del self._values[key]
                return Reply(250, "2.0.0", "deleted")
            case (verb,) if verb.upper() == "CLEAR":
                self._values.clear()
                return Reply(250, "2.0.0", "cleared")
            case (verb, key, *words) if verb.upper() == "SET" and words:
                return self._set(key, " ".join(words))
        return Reply(501, "5.5.4", "unknown XDEBUG CONTEXT command, try XDEBUG HELP")

    def _set(self, key: str, value: str) -> Reply:
        if key not in self._values and len(self._values) >= MAX_CONTEXT_ENTRIES:
            return Reply(452, "4.3.1", f"no more than {MAX_CONTEXT_ENTRIES} values")
        self._values[key] = (value, self._clock.wall())
        return Reply(250, "2.0.0", "set")

    def _rows(self) -> list[str]:
        return [self._row(key) for key in self._values]

    def _row(self, key: str) -> str:
        value, at = self._values[key]
        return f"{key}: {value} (set at {datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ})"


class Talk(Protocol):
    """What XDEBUG shows of a session."""

    @property
    def client(self) -> str:
        """The client's address and port."""
        ...

    @property
    def helo(self) -> str:
        """What it calls itself."""
        ...


def facts_of(session: Talk, state: State, transaction: Transaction | None) -> dict[str, str]:
    """What XDEBUG shows of a session."""
    return {
        "Client IP": session.client,
        "Hostname": session.helo,
        "State": state.value,
        "Mail From": transaction.sender if transaction else "",
        "Rcpt To": ", ".join(str(one.address) for one in transaction.recipients) if transaction else "",
    }
