"""What a store of the plugins' small state keeps, whatever it keeps it in.

`KeyValueStore` gives each plugin a `KeyValue` of its own (`plugins.api`), whose calls become an `Operation` that the
store carries out. What an operation does is decided here, in `carry_out`, which the stores in this process use; those
on a database server say the same in SQL (`keyvalue_statements`), and one contract is tried on all.

What is not here: the stores. Every call may raise `SharedAway`; `ValueError` for what nobody keeps.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeAlias

import trio
from attrs import frozen

from elemta.plugins.api import KeyValue

#: Octets of a key in UTF-8; `plugins.api.KeyValue` promises them.
KEY_OCTETS: Final = 200
#: Octets of a value; `plugins.api.KeyValue` promises them.
VALUE_OCTETS: Final = 4096
#: Octets of a namespace in UTF-8. Ours: a plugin's name is some letters, but may be a file's.
NAMESPACE_OCTETS: Final = 200
#: Seconds that anything may be kept: ten years. Ours: beyond, somebody took milliseconds for seconds.
LONGEST_SECONDS: Final = 10 * 366 * 86_400.0
#: Seconds that a call takes at most; then it is `SharedAway`. A sixth of a plugin's deadline, `api.DEADLINE_SECONDS`.
CALL_SECONDS: Final = 5.0
#: Digits of what a counter may be before it is added to, so that the sum fits into 64 bits everywhere.
COUNTER_DIGITS: Final = 18
#: A counter as it is kept; what `put` wrote may be one as well.
_COUNTER: Final = re.compile(rb"-?[0-9]{1,18}")


# ---- operations ----------------------------------------------------------------------------------


@frozen
class Get:
    """See `KeyValue.get`."""

    namespace: str
    key: str


@frozen
class Put:
    """See `KeyValue.put`."""

    namespace: str
    key: str
    value: bytes
    seconds: float


@frozen
class Swap:
    """See `KeyValue.swap`."""

    namespace: str
    key: str
    old: bytes | None
    new: bytes
    seconds: float


@frozen
class Add:
    """See `KeyValue.add`."""

    namespace: str
    key: str
    amount: int
    seconds: float


@frozen
class Delete:
    """See `KeyValue.delete`."""

    namespace: str
    key: str


Operation: TypeAlias = Get | Put | Swap | Add | Delete


@frozen
class Answer:
    """The value that Get found or Add made; whether Swap did it."""

    value: bytes | None = None
    is_done: bool = True


@frozen
class Entry:
    """What is kept under one key. `until` is UTC in seconds since 1970; from then on it is not there."""

    value: bytes
    until: float


class NoCounter(ValueError):
    """Something other than a counter is kept there."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key!r} holds no whole number of at most {COUNTER_DIGITS} digits to add to")


def carry_out(operation: Operation, entry: Entry | None, *, now: float) -> tuple[Entry | None, Answer]:
    """What an operation makes of an entry, and answers. Raises `NoCounter`."""
    if entry is not None and entry.until <= now:
        entry = None
    match operation:
        case Get():
            return entry, Answer(None if entry is None else entry.value)
        case Put():
            return Entry(operation.value, now + operation.seconds), Answer()
        case Swap():
            if operation.old != (None if entry is None else entry.value):
                return entry, Answer(is_done=False)
            return Entry(operation.new, now + operation.seconds), Answer()
        case Add():
            counted = _counted(operation, entry, now=now)
            return counted, Answer(counted.value)
        case Delete():
            return None, Answer()


def _counted(operation: Add, entry: Entry | None, *, now: float) -> Entry:
    until = now + operation.seconds
    if entry is None:
        return Entry(b"%d" % operation.amount, until)
    if not _COUNTER.fullmatch(entry.value):
        raise NoCounter(operation.key)
    # One that was begun by a clock that was ahead would count until that time has come again.
    return Entry(b"%d" % (int(entry.value) + operation.amount), min(entry.until, until))


# ---- stores --------------------------------------------------------------------------------------


class KeyValueStore(Protocol):
    """The state of all plugins. Opened, then run beside whoever uses it, then closed."""

    async def open(self) -> None:
        """Make it ready. Raises `SharedAway` where that cannot mend itself."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        ...

    async def close(self) -> None:
        """Let go; more than once is no failure."""
        ...

    def of(self, namespace: str) -> KeyValue:
        """One plugin's part. Raises `ValueError` for a name that is too long or empty."""
        ...


class Shelf:
    """One plugin's part of a store: checks what comes, and hands it over; see `KeyValue`."""

    def __init__(self, namespace: str, do: Callable[[Operation], Awaitable[Answer]]) -> None:
        if not 0 < len(namespace.encode()) <= NAMESPACE_OCTETS:
            raise ValueError(f"a namespace has 1 to {NAMESPACE_OCTETS} octets: {namespace[:NAMESPACE_OCTETS]!r}")
        self._namespace = namespace
        self._do = do

    async def get(self, key: str) -> bytes | None:
        """The value; None when there is none."""
        return (await self._do(Get(self._namespace, _key(key)))).value

    async def put(self, key: str, value: bytes, *, seconds: float) -> None:
        """Set the value, for so long."""
        await self._do(Put(self._namespace, _key(key), _value(value), _seconds(seconds)))

    async def swap(self, key: str, old: bytes | None, new: bytes, *, seconds: float) -> bool:
        """Set the value if it is still `old` (None: if there is none); False when it is not."""
        former = None if old is None else _value(old)
        return (await self._do(Swap(self._namespace, _key(key), former, _value(new), _seconds(seconds)))).is_done

    async def add(self, key: str, amount: int = 1, *, seconds: float) -> int:
        """Add to a counter and return it; kept in decimal digits, so that `get` and `put` know it as well."""
        answer = await self._do(Add(self._namespace, _key(key), _amount(amount), _seconds(seconds)))
        return int(answer.value or b"0")

    async def delete(self, key: str) -> None:
        """Forget it."""
        await self._do(Delete(self._namespace, _key(key)))


def _key(key: str) -> str:
    octets = len(key.encode())  # what is not Unicode raises UnicodeEncodeError, which is a ValueError
    if octets > KEY_OCTETS:
        raise ValueError(f"a key has at most {KEY_OCTETS} octets of UTF-8, this one {octets}: {key[:50]!r}…")
    return key


def _value(value: bytes) -> bytes:
    octets = bytes(memoryview(value))  # of what is no octets at all, `bytes` alone would make some
    if len(octets) > VALUE_OCTETS:
        raise ValueError(f"a value has at most {VALUE_OCTETS} octets, this one {len(octets)}")
    return octets


def _seconds(seconds: float) -> float:
    if not 0 < seconds <= LONGEST_SECONDS:
        raise ValueError(f"seconds are more than 0, at most {LONGEST_SECONDS:g}: {seconds}")
    return float(seconds)


def _amount(amount: int) -> int:
    if abs(amount) >= 10**COUNTER_DIGITS:
        raise ValueError(f"an amount has at most {COUNTER_DIGITS} digits: {amount}")
    return int(amount)
