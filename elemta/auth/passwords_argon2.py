"""Argon2, in which we keep passwords ourselves.

What is not here: the threads it runs in. RFC 9106; the text is that of the PHC (`$argon2id$v=19$m=…,t=…,p=…$…$…`).
Failures raised: `UnknownForm`; `MemoryError` when there is no memory for a hash now.

`argon2` is imported where it is first used: a server without users does not pay for it.
"""

import re

from elemta.auth.passwords_form import Form, UnknownForm, bounded

#: OWASP's Password Storage Cheat Sheet, the least it accepts: 19 MiB, two passes, one lane. 40 ms on the two slow cores
#: where all times here were measured. RFC 9106 §4 would rather have 64 MiB, three passes, four lanes (175 ms there):
#: that much memory and time each wrong password of a stranger would cost us, on a server that may have 512 MiB.
MEMORY_KIB = 19 * 1024
PASSES = 2
LANES = 1
#: RFC 9106 §3.1: 16 octets are enough for passwords.
SALT_OCTETS = 16
#: RFC 9106 §4.
HASH_OCTETS = 32
#: What a stored hash may ask for: the memory of libsodium's `moderate`, which is more than other mail servers take,
#: and the work of four passes through it, some 1.5 s.
MAX_MEMORY_KIB = 256 * 1024
MAX_WORK_KIB = 4 * MAX_MEMORY_KIB
#: Each lane is a thread of its own; RFC 9106 §4 recommends four.
MAX_LANES = 16
#: With the parameters above; salt and hash are zeros, which no password gives.
DECOY = f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${'A' * 22}${'A' * 43}"
_STORED = re.compile(
    r"\$argon2(id|i)\$v=19\$m=(\d{1,9}),t=(\d{1,9}),p=(\d{1,9})\$[A-Za-z0-9+/]{11,86}\$([A-Za-z0-9+/]{22,86})"
)
_OUT_OF_MEMORY = -22


def hash_password(password: bytes, salt: bytes) -> str:
    """The hash to store; blocks. Raises `MemoryError`."""
    from argon2.exceptions import HashingError
    from argon2.low_level import Type, hash_secret

    try:
        return hash_secret(password, salt, PASSES, MEMORY_KIB, LANES, HASH_OCTETS, Type.ID).decode()
    except HashingError as error:
        raise MemoryError(f"argon2: {error}") from None


def read(stored: str) -> Form:
    """A stored hash. Raises `UnknownForm`.

    It is current when it is argon2id with at least our memory and passes: a stronger hash is never made weaker.
    """
    found = _STORED.fullmatch(stored)
    if found is None:
        raise UnknownForm("no hash of argon2id or argon2i")
    kind, memory, passes = found[1], int(found[2]), int(found[3])
    bounded("KiB of memory", memory, MAX_MEMORY_KIB)
    bounded("KiB of memory times passes", memory * passes, MAX_WORK_KIB)
    bounded("lanes", int(found[4]), MAX_LANES)
    current = kind == "id" and memory >= MEMORY_KIB and passes >= PASSES and len(found[5]) >= len(DECOY.split("$")[-1])
    return Form(lambda password: _fits(password, stored, kind), current)


def _fits(password: bytes, stored: str, kind: str) -> bool:
    from argon2.exceptions import VerificationError, VerifyMismatchError
    from argon2.low_level import Type, error_to_str, verify_secret

    try:
        return verify_secret(stored.encode(), password, Type.ID if kind == "id" else Type.I)
    except VerifyMismatchError:
        return False
    except VerificationError as error:
        if str(error) == error_to_str(_OUT_OF_MEMORY):
            raise MemoryError(f"argon2: {error}") from None
        raise UnknownForm(f"argon2: {error}") from None
