"""SHA-crypt, as the shadow file of most systems has it.

What is not here: making such hashes. Failures raised: `UnknownForm`. Specification, with test vectors: Ulrich Drepper,
akkadia.org/drepper/SHA-crypt.txt.

Checked by `libpass`, the kept fork of passlib: Python's own `crypt` is gone since 3.13. It is the one form that holds
the interpreter while it works, in pure Python.
"""

import re

from elemta.auth.passwords_form import Form, UnknownForm, bounded

#: Some 0.8 s. passlib's own default is the highest in use, 656,000.
MAX_ROUNDS = 1_000_000
#: The least that the specification allows; lower numbers in a hash are a mistake of who made it.
MIN_ROUNDS = 1000
_STORED = re.compile(
    r"\$(?:5|(6))\$(?:rounds=([1-9]\d{0,9})\$)?[./A-Za-z0-9]{0,16}\$(?(1)[./A-Za-z0-9]{86}|[./A-Za-z0-9]{43})"
)


def read(stored: str) -> Form:
    """`$5$` or `$6$`. Raises `UnknownForm`."""
    found = _STORED.fullmatch(stored)
    if found is None:
        raise UnknownForm("no hash of SHA-crypt")
    if found[2]:
        rounds = bounded("rounds of SHA-crypt", int(found[2]), MAX_ROUNDS)
        if rounds < MIN_ROUNDS:
            raise UnknownForm(f"rounds of SHA-crypt: {rounds}, at least {MIN_ROUNDS}")
    return Form(lambda password: _fits(password, stored))


def _fits(password: bytes, stored: str) -> bool:
    # Not from `passlib.hash`, which loads what it is asked for by itself: two threads at once get an ImportError there.
    from passlib.handlers.sha2_crypt import sha256_crypt, sha512_crypt

    scheme = sha512_crypt if stored.startswith("$6$") else sha256_crypt
    try:
        return bool(scheme.verify(password, stored))
    except ValueError as error:
        raise UnknownForm(f"SHA-crypt: {type(error).__name__}") from None
