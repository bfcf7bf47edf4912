"""Which mail goes first.

What is not here: whether a sender's MT-PRIORITY is honoured at all (`inbound` decides: only from trusted senders), or
the heap that the order keys lie in (`queue.dispatcher`).
RFC 6710 gives MT-PRIORITY its nineteen levels; the queue has four. Failures raised: `ValueError` for a name or a number
that is no priority.
"""

from elemta.mail.envelope import Priority

#: Seconds that a due mail waits for its turn before it counts as starving, and is reported. Ours: three times the
#: shortest usual retry interval of five minutes, so that an ordinary burst stays silent.
STARVING_AFTER_SECONDS = 900.0

#: Bounds of MT-PRIORITY, RFC 6710 §4.1.
MT_PRIORITY_LEAST = -9
MT_PRIORITY_MOST = 9

#: The least MT-PRIORITY of each level above LOW. Zero is what a mail without the parameter has (RFC 6710 §4.1).
_LEAST_NORMAL = -1
_LEAST_HIGH = 2
_LEAST_CRITICAL = 6

#: What a level is written as towards a hop that offers MT-PRIORITY; each lies inside the range it is read from.
_AS_MT_PRIORITY = {Priority.LOW: -4, Priority.NORMAL: 0, Priority.HIGH: 4, Priority.CRITICAL: 6}

#: Sorts mails: the smaller key goes first. See `order_key`.
OrderKey = tuple[float, float, str]


def order_key(priority: Priority, due: float, *, id: str, ageing: float | None = None) -> OrderKey:
    """The place of a mail in line: smaller goes first, no two mails are equal.

    Without `ageing`: the higher priority, then the longer due, then the smaller id. With it (seconds of waiting worth
    one priority): a mail that has been due `ageing` seconds longer is level with one a priority above it. Both keys
    hold as long as the mail waits, so that a heap needs no re-sorting: waiting adds the same to every mail.
    `due` is UTC in seconds since 1970. Raises `ValueError` for an `ageing` that is not positive.
    """
    if ageing is None:
        return (-float(priority), due, id)
    if ageing <= 0:
        raise ValueError(f"ageing must be more than 0 seconds, not {ageing!r}")
    return (0.0, due - priority * ageing, id)


def is_starving(due: float, now: float) -> bool:
    """True for a mail that has been due for longer than `STARVING_AFTER_SECONDS`: its priority never gets a turn."""
    return now - due > STARVING_AFTER_SECONDS


def from_mt_priority(value: int) -> Priority:
    """The level of an MT-PRIORITY. Raises `ValueError` outside -9 to 9 (RFC 6710 §4.1)."""
    if not MT_PRIORITY_LEAST <= value <= MT_PRIORITY_MOST:
        raise ValueError(f"MT-PRIORITY is -9 to 9, not {value}")
    if value >= _LEAST_CRITICAL:
        return Priority.CRITICAL
    if value >= _LEAST_HIGH:
        return Priority.HIGH
    return Priority.NORMAL if value >= _LEAST_NORMAL else Priority.LOW


def to_mt_priority(priority: Priority) -> int:
    """The MT-PRIORITY for a level; `from_mt_priority` gives the level back."""
    return _AS_MT_PRIORITY[priority]


def from_name(name: str) -> Priority:
    """The level called `low`, `normal`, `high` or `critical`, in any case. Raises `ValueError` for another name."""
    try:
        return Priority[name.strip().upper()]
    except KeyError:
        raise ValueError(f"a priority is low, normal, high or critical, not {name!r}") from None


def first_spoken(*wishes: Priority | None) -> Priority:
    """The first wish that is not NORMAL; NORMAL when there is none. None and NORMAL both mean "nothing special"."""
    for wish in wishes:
        if wish is not None and wish is not Priority.NORMAL:
            return wish
    return Priority.NORMAL


def combine(mt_priority: int | None, *, listener: Priority | None = None, route: Priority | None = None) -> Priority:
    """The priority of a mail from all that have a say: what is nearest to the mail wins.

    First the mail's own MT-PRIORITY (None unless its sender is trusted), then the door it came through, then the route
    it leaves by. A level of NORMAL, or an MT-PRIORITY that means it, says nothing special and leaves the word to the
    next. `inbound` may therefore settle the first two, and the queue the third: `first_spoken(decided, route)`.
    """
    own = None if mt_priority is None else from_mt_priority(mt_priority)
    return first_spoken(own, listener, route)
