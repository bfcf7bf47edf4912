"""Passwords: hashing them, checking them against what is stored.

What is not here: the forms of other systems (`auth.passwords_…`), users, threads, limits, the cache of passwords that
were right (`auth.credentials`). Failures raised: `Unfit` for what can be nobody's password when one is set;
`MemoryError` when there is no memory for a hash now, which is nobody's fault.

Everything here blocks for tens of milliseconds and is safe in threads; the libraries let go of the interpreter
meanwhile, but for SHA-crypt.
"""

import enum
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from elemta.auth import (
    passwords_apr1,
    passwords_argon2,
    passwords_bcrypt,
    passwords_digest,
    passwords_pbkdf2,
    passwords_shacrypt,
)
from elemta.auth.passwords_form import Form, UnknownForm
from elemta.auth.sasl.preparation import Unfit, prepare_password

#: The longest of any form within its bounds has some 350 characters.
MAX_STORED_CHARACTERS = 512

Reader = Callable[[str], Form]


class Verdict(enum.Enum):
    """What a password is to a stored one."""

    RIGHT = "right"
    #: Right, and time to hash it anew: it is kept in a weaker form than ours.
    RIGHT_BUT_OLD = "right but old"
    WRONG = "wrong"
    #: The stored one is of no form that is checked here; no password is right. Worth a warning, not to the client.
    UNKNOWN_FORM = "unknown form"


class PasswordHasher:
    """The one door. `chance(n)` gives n octets nobody can guess."""

    def __init__(self, chance: Callable[[int], bytes] = os.urandom) -> None:
        self._chance = chance

    def hash(self, password: str | bytes) -> str:
        """What to store of a password; octets are UTF-8. Blocks. Raises `Unfit`, `MemoryError`."""
        return passwords_argon2.hash_password(prepare_password(password), self._chance(passwords_argon2.SALT_OCTETS))

    def verify(self, password: str | bytes, stored: str) -> Verdict:
        """What a password is to a stored one. Blocks. Raises `MemoryError`.

        Whatever is wrong with either, it costs at least one verification of argon2, as `dummy` does: who measures
        learns nothing about users whose hash is ours, and little about others.
        """
        spellings = _spellings(password)
        try:
            form = read_form(stored)
            fitting = next((spelling for spelling in spellings if form.fits(spelling)), None)
        except UnknownForm:
            self.dummy(password)
            return Verdict.UNKNOWN_FORM
        if fitting is not None:
            return Verdict.RIGHT if form.current and fitting == spellings[0] else Verdict.RIGHT_BUT_OLD
        if not (form.current and spellings):
            self.dummy(password)
        return Verdict.WRONG

    def dummy(self, password: str | bytes) -> None:
        """Cost what a wrong password costs, for a user who does not exist. Blocks. Raises `MemoryError`."""
        decoy = passwords_argon2.read(passwords_argon2.DECOY)
        for spelling in _spellings(password) or (b"",):
            decoy.fits(spelling)


def _spellings(password: str | bytes) -> tuple[bytes, ...]:
    """What a password may have been hashed as: prepared, or by another system as it is; empty for nobody's."""
    try:
        prepared = prepare_password(password)
    except Unfit:
        return ()
    as_it_is = password.encode() if isinstance(password, str) else password
    return (prepared,) if prepared == as_it_is else (prepared, as_it_is)


# ---- which form it is ----------------------------------------------------------------------------

#: What a stored password without a scheme begins with, for the forms that say by themselves which they are.
_BY_BEGINNING: Final[tuple[tuple[str, Reader], ...]] = (
    ("$argon2", passwords_argon2.read),
    ("$apr1$", passwords_apr1.read),
    ("$2", passwords_bcrypt.read),
    ("$5$", passwords_shacrypt.read),
    ("$6$", passwords_shacrypt.read),
    ("$pbkdf2-", passwords_pbkdf2.read_passlib),
    ("pbkdf2_sha256$", passwords_pbkdf2.read_django),
)


def read_form(stored: str) -> Form:
    """Which form a stored password has. Raises `UnknownForm`.

    A text without a known beginning is no hash: it could be a password in the clear, and that is never accepted.
    """
    if len(stored) > MAX_STORED_CHARACTERS or not stored.isascii():
        raise UnknownForm(f"more than {MAX_STORED_CHARACTERS} characters, or others than ASCII")
    if not stored.startswith("{"):
        return _read_bare(stored)
    # RFC 2307 §5.3: {scheme}hash; Dovecot and OpenLDAP compare schemes without case.
    scheme, brace, rest = stored[1:].partition("}")
    reader = _BY_SCHEME.get(scheme.upper())
    if not brace or reader is None:
        raise UnknownForm("an unknown scheme in braces")
    return reader(rest)


def _read_bare(stored: str) -> Form:
    for beginning, reader in _BY_BEGINNING:
        if stored.startswith(beginning):
            return reader(stored)
    raise UnknownForm("not the beginning of any known form")


_BY_SCHEME: Final[Mapping[str, Reader]] = {
    "ARGON2I": passwords_argon2.read,
    "ARGON2ID": passwords_argon2.read,
    "BLF-CRYPT": passwords_bcrypt.read,
    "CRYPT": _read_bare,
    "PBKDF2": passwords_pbkdf2.read_dovecot,
    "SHA256-CRYPT": passwords_shacrypt.read,
    "SHA512-CRYPT": passwords_shacrypt.read,
    **{scheme: partial(passwords_digest.read, scheme) for scheme in passwords_digest.UNSALTED},
    **{scheme: partial(passwords_digest.read, scheme) for scheme in passwords_digest.SALTED},
}
