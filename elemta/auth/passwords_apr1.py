"""Apache's MD5-crypt, which `htpasswd` makes unless it is told otherwise.

What is not here: making such hashes. Source: Apache's manual, password_encryptions. Failures raised: `UnknownForm`.

A thousand rounds of MD5 hold nobody up today. They are checked so that an existing file of users works; where the
users are kept here, the first login gives each a hash worth the name.
"""

import re

from elemta.auth.passwords_form import Form, UnknownForm

_STORED = re.compile(r"\$apr1\$[./A-Za-z0-9]{0,8}\$[./A-Za-z0-9]{22}")


def read(stored: str) -> Form:
    """`$apr1$`. Raises `UnknownForm`."""
    if _STORED.fullmatch(stored) is None:
        raise UnknownForm("no hash of apr1")
    return Form(lambda password: _fits(password, stored))


def _fits(password: bytes, stored: str) -> bool:
    # Not from `passlib.hash`: see `auth.passwords_shacrypt`.
    from passlib.handlers.md5_crypt import apr_md5_crypt

    try:
        return bool(apr_md5_crypt.verify(password, stored))
    except ValueError as error:
        raise UnknownForm(f"apr1: {type(error).__name__}") from None
