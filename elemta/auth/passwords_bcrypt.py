"""Bcrypt, from htpasswd, Dovecot, PHP or whoever kept the users before.

What is not here: making such hashes. Failures raised: `UnknownForm`.
"""

import re

from elemta.auth.passwords_form import Form, UnknownForm, bounded

#: What bcrypt looks at. Everybody else cuts longer passwords here without a word; the library `bcrypt` refuses them.
SIGNIFICANT_OCTETS = 72
#: 2^14 rounds are some 1.2 s. OWASP asks for 10 or more, 12 is the usual default.
MAX_COST = 14
#: `$2x$` marks hashes of a broken implementation, in which several passwords give one hash.
_STORED = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")


def read(stored: str) -> Form:
    """`$2a$`, `$2b$` or `$2y$`. Raises `UnknownForm`."""
    found = _STORED.fullmatch(stored)
    if found is None:
        raise UnknownForm("no hash of bcrypt")
    bounded("cost of bcrypt", int(found[1]), MAX_COST)
    return Form(lambda password: _fits(password, stored))


def _fits(password: bytes, stored: str) -> bool:
    import bcrypt

    try:
        return bcrypt.checkpw(password[:SIGNIFICANT_OCTETS], stored.encode())
    except ValueError as error:
        raise UnknownForm(f"bcrypt: {error}") from None
