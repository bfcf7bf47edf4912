"""PBKDF2, as Django, passlib or Dovecot write it.

What is not here: making such hashes. RFC 8018 §5.2. Failures raised: `UnknownForm`.

- Django: `pbkdf2_sha256$<iterations>$<salt>$<base64>`.
- passlib: `$pbkdf2-sha256$<rounds>$<salt>$<hash>`, both in base64 with `.` for `+` and without padding; `-sha512` too.
- Dovecot: `{PBKDF2}$1$<salt>$<rounds>$<hexadecimal>`, always with SHA-1.
"""

import base64
import binascii
import functools
import hashlib
import hmac
import re

from elemta.auth.passwords_form import Form, UnknownForm, bounded

#: Django 6 makes 1,200,000 and adds some each year; twice as many are some 0.8 s.
MAX_ITERATIONS = 2_400_000
_DJANGO = re.compile(r"pbkdf2_sha256\$([1-9]\d{0,9})\$([!-#%-~]{1,128})\$([A-Za-z0-9+/]{43}=)")
_PASSLIB = re.compile(r"\$pbkdf2-(sha256|sha512)\$([1-9]\d{0,9})\$([A-Za-z0-9./]{0,172})\$([A-Za-z0-9./]{43,86})")
_DOVECOT = re.compile(r"\$1\$([!-#%-~]{1,128})\$([1-9]\d{0,9})\$([0-9a-f]{40})")


def read_django(stored: str) -> Form:
    """Django's form. Raises `UnknownForm`."""
    found = _match(_DJANGO, stored)
    return _form("sha256", int(found[1]), found[2].encode(), _base64(found[3]))


def read_passlib(stored: str) -> Form:
    """passlib's form. Raises `UnknownForm`."""
    found = _match(_PASSLIB, stored)
    return _form(found[1], int(found[2]), _base64(found[3]), _base64(found[4]))


def read_dovecot(stored: str) -> Form:
    """Dovecot's form, without `{PBKDF2}`. Raises `UnknownForm`."""
    found = _match(_DOVECOT, stored)
    return _form("sha1", int(found[2]), found[1].encode(), bytes.fromhex(found[3]))


def _match(form: re.Pattern[str], stored: str) -> re.Match[str]:
    found = form.fullmatch(stored)
    if found is None:
        raise UnknownForm("no hash of PBKDF2")
    return found


def _form(digest: str, iterations: int, salt: bytes, expected: bytes) -> Form:
    bounded("iterations of PBKDF2", iterations, MAX_ITERATIONS)
    if len(expected) != hashlib.new(digest).digest_size:
        raise UnknownForm("a hash of PBKDF2 of another length than its digest's")
    derive = functools.partial(hashlib.pbkdf2_hmac, digest)
    return Form(lambda password: hmac.compare_digest(derive(password, salt, iterations), expected))


def _base64(text: str) -> bytes:
    padded = text.replace(".", "+") + "=" * (-len(text) % 4)
    try:
        return base64.b64decode(padded, validate=True)
    except binascii.Error:
        raise UnknownForm("base64 that cannot be decoded") from None
