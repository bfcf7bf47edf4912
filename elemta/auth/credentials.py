"""Passwords that were right a moment ago, so that a client of many short sessions is not hashed each time.

What is not here: the users, who are asked at each login all the same: whoever was disabled, or has another password,
is not served from here. Failures raised: none.

Nothing is kept that could be a password: a digest under a key that was drawn when the process began, of the user, the
stored hash as well as the password. Whoever reads the whole memory of the process can guess at it quickly, and could
have read the passwords themselves.
"""

import hmac
import os
from collections import OrderedDict

#: The digests of so many logins, some 200 octets each: 2 MB.
MAX_ENTRIES = 10_000
#: SHA-256's own block would take no more, RFC 2104 §3.
KEY_OCTETS = 32


class CredentialCache:
    """Remembers for `seconds` from the check itself; being used makes nothing last longer. 0 remembers nothing.

    Not for threads: it is asked on the event loop, and takes microseconds.
    """

    def __init__(self, seconds: float, *, entries: int = MAX_ENTRIES, key: bytes | None = None) -> None:
        self._seconds = seconds
        self._entries = entries
        self._key = key or os.urandom(KEY_OCTETS)
        #: Digest → when it ends, on the monotonic clock; the oldest first, for all last equally long.
        self._known: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def remember(self, user: str, stored: str, password: bytes, *, now: float) -> None:
        """This password was checked against this stored hash at `now`, and was right."""
        if self._seconds <= 0:
            return
        digest = self._digest(user, stored, password)
        self._known[digest] = now + self._seconds
        self._known.move_to_end(digest)
        while len(self._known) > self._entries:
            self._known.popitem(last=False)

    def knows(self, user: str, stored: str, password: bytes, *, now: float) -> bool:
        """Whether this was right, and not too long ago."""
        while self._known:
            digest, ends = next(iter(self._known.items()))
            if ends > now:
                break
            del self._known[digest]
        return self._digest(user, stored, password) in self._known

    def _digest(self, user: str, stored: str, password: bytes) -> bytes:
        """Each part with its length before it, so that no two logins are one text."""
        parts = (user.encode(), stored.encode(), password)
        return hmac.digest(self._key, b"".join(len(part).to_bytes(4) + part for part in parts), "sha256")
