"""What keeps a server from starting, in words for people.

What is not here: who says them. Failure defined: `CannotStart`.
"""

import errno
import os
from collections.abc import Iterator

from elemta.storage.base import StoreUnavailable

#: Exit statuses, see `cli.output`: the operation failed, try again later, not permitted, an unusable configuration.
FAILED = 1
TEMPORARY = 75
NOT_PERMITTED = 77
CONFIG = 78


class CannotStart(Exception):
    """The server cannot start; the text is for people."""

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(text)
        self.status = status


def reason_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a person needs to hear of the failures that ended the server: the first that says what to do."""
    for failure in _leaves(group):
        if isinstance(failure, CannotStart):
            return failure
        if isinstance(failure, StoreUnavailable):
            return CannotStart(str(failure), TEMPORARY)
    return group


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for failure in group.exceptions:
        if isinstance(failure, BaseExceptionGroup):
            yield from _leaves(failure)
        else:
            yield failure


def cannot_listen(error: OSError, key: str = "listen_addr") -> CannotStart:
    """One sentence with the remedy for an address that cannot be bound."""
    address = error.filename or "the address"
    if error.errno == errno.EADDRINUSE:
        return CannotStart(
            f"{address} is in use by another program (see it with: ss -ltnp). Stop that one, or choose another {key}."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return CannotStart(
            f"{address} may not be bound by this user (uid {os.geteuid()}). A port under 1024 needs "
            "CAP_NET_BIND_SERVICE: give it with AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit, or "
            f"choose a port from 1024 up in {key}.",
            NOT_PERMITTED,
        )
    return CannotStart(f"{address} cannot be bound: {error.strerror or error}. Check {key}.")


def only_one(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure in a group that holds no other."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return found
