"""When a mail from a stranger passes.

A server that is unknown here is told to come again: a real one does (RFC 5321 §4.5.4.1), most programs that send spam
do not (RFC 6647 §2). What is remembered of a triplet (network, sender, recipient) and of a client's network is decided
here, as a function of time. What is not here: keeping it (`greylisting`). Times are whole milliseconds. Failures
raised: none.
"""

from typing import Final

from attrs import evolve, frozen

#: Milliseconds by which a record may be older than when it was last seen: one write a day is enough to keep it.
REFRESH_MILLISECONDS: Final = 86_400_000
#: Milliseconds in which the passes of one client count once, as Postgrey has it: one mail to five recipients that came
#: again once shows nothing that one recipient does not.
PASS_MILLISECONDS: Final = 3_600_000


@frozen
class Rules:
    """How long, in milliseconds: put off, waited for, remembered; after how many passes a client is known."""

    delay: int
    retry_window: int
    lifetime: int
    client_passes: int
    client_lifetime: int


@frozen
class Triplet:
    """What is remembered of one: when it first came, when it was last noted, whether it passed."""

    first: int
    noted: int
    passed: bool = False


@frozen
class Ruling:
    """What becomes of one recipient. `wait` is in milliseconds, None for who passes.

    `keep` is what to remember from now on, None where nothing changed; `is_new` is true for the one pass that made a
    triplet known.
    """

    wait: int | None
    keep: Triplet | None = None
    is_new: bool = False


def rule(known: Triplet | None, now: int, *, rules: Rules) -> Ruling:
    """What becomes of a triplet that comes now."""
    if known is None or _is_over(known, now, rules=rules):
        return Ruling(rules.delay, Triplet(now, now))
    if known.passed:
        stale = now - known.noted >= REFRESH_MILLISECONDS
        return Ruling(None, evolve(known, noted=now) if stale else None)
    if now - known.first < rules.delay:
        return Ruling(rules.delay - (now - known.first))
    return Ruling(None, Triplet(known.first, now, passed=True), is_new=True)


def keep_milliseconds(triplet: Triplet, rules: Rules) -> int:
    """How long to remember it from when it was noted."""
    return rules.lifetime + REFRESH_MILLISECONDS if triplet.passed else rules.retry_window


def _is_over(known: Triplet, now: int, *, rules: Rules) -> bool:
    """Whether it counts as never seen: it is past its time, or waits since a time to come, as the clock was set
    back."""
    return now - known.noted >= keep_milliseconds(known, rules) or (not known.passed and known.first > now)


@frozen
class Client:
    """What is remembered of a client's network: passes that counted, when it was last noted."""

    passes: int
    noted: int


def is_known(client: Client | None, now: int, *, rules: Rules) -> bool:
    """Whether a client need not be asked to come again at all."""
    if client is None or not rules.client_passes or client.passes < rules.client_passes:
        return False
    return now - client.noted < client_keep_milliseconds(rules)


def client_keep_milliseconds(rules: Rules) -> int:
    """How long to remember a client from when it was noted."""
    return rules.client_lifetime + REFRESH_MILLISECONDS


def refreshed(client: Client | None, now: int) -> Client | None:
    """What to remember of a known client that came again; None where nothing changed."""
    return evolve(client, noted=now) if client and now - client.noted >= REFRESH_MILLISECONDS else None


def passed_once_more(client: Client | None, now: int) -> Client | None:
    """What to remember of a client when one more of its triplets has passed; None where that counts for nothing."""
    if client is None:
        return Client(1, now)
    return None if 0 <= now - client.noted < PASS_MILLISECONDS else Client(client.passes + 1, now)


def dump(record: Triplet | Client) -> bytes:
    """A record as it is kept."""
    if isinstance(record, Client):
        return f"{record.passes} {record.noted}".encode("ascii")
    return f"{record.first} {record.noted} {int(record.passed)}".encode("ascii")


def load_triplet(kept: bytes | None) -> Triplet | None:
    """The record that was kept; None for none, or for what is none."""
    words = _numbers(kept)
    return Triplet(words[0], words[1], bool(words[2])) if len(words) == 3 else None


def load_client(kept: bytes | None) -> Client | None:
    """The record that was kept; None for none, or for what is none."""
    words = _numbers(kept)
    return Client(words[0], words[1]) if len(words) == 2 else None


def _numbers(kept: bytes | None) -> list[int]:
    words = (kept or b"").decode("ascii", "replace").split()
    return [int(word) for word in words if word.isascii() and word.isdecimal()]
