"""Verifiers of SCRAM-SHA-256: what is kept of a password for it.

What is not here: the exchange (`auth.sasl.scram`), where verifiers are kept (`auth.users_…`), random salts (an
argument). RFC 5802 §3, RFC 7677; the text is that of RFC 5803 §2, in the spelling of PostgreSQL:
`SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`. Failures raised: `UnfitVerifier`; `Unfit` for a password.

A verifier stolen from a database is attacked by guessing, like a hash, and guessing PBKDF2 is cheaper than guessing
argon2id: that is why SCRAM is off unless the operator wants it.
"""

import base64
import binascii
import hashlib
import hmac
import re

from attrs import field, frozen

from elemta.auth.sasl.preparation import fold_name, prepare_password

#: RFC 7677 §4 asks for at least 4,096, and as a rule for what takes a modern machine 0.1 s, which were 15,000 in 2015.
#: 100,000 take 30 to 50 ms in OpenSSL today and stay well below a second in a telephone. We pay once a password, when
#: it is set; at a login the client pays, and may keep the result.
SCRAM_ITERATIONS = 100_000
#: RFC 7677 §4.
MIN_ITERATIONS = 4096
#: Some 0.4 s of checking a password, and of each login at the client.
MAX_ITERATIONS = 1_000_000
#: As PostgreSQL and the example of RFC 7677 §3 have it.
SALT_OCTETS = 16
_KEY_OCTETS = 32
_FORM = re.compile(
    r"SCRAM-SHA-256\$([1-9][0-9]{3,6}):([A-Za-z0-9+/]{8,88}={0,2})\$([A-Za-z0-9+/]{43}=):([A-Za-z0-9+/]{43}=)"
)


class UnfitVerifier(ValueError):
    """No verifier of SCRAM-SHA-256, or one out of bounds. The text does not repeat it."""


@frozen
class Verifier:
    """What proves a password to SCRAM, and the server to the client. Keys have 32 octets."""

    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def text(self) -> str:
        """As it is stored."""
        salt, stored, server = (
            base64.b64encode(each).decode() for each in (self.salt, self.stored_key, self.server_key)
        )
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored}:{server}"


def make_verifier(password: str | bytes, *, salt: bytes, iterations: int = SCRAM_ITERATIONS) -> Verifier:
    """The verifier of a password; `salt` holds `SALT_OCTETS` of chance. Blocks for some 40 ms. Raises `Unfit`."""
    salted = hashlib.pbkdf2_hmac("sha256", prepare_password(password), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return Verifier(iterations, salt, hashlib.sha256(client_key).digest(), server_key)


def parse_verifier(text: str) -> Verifier:
    """A stored verifier. Raises `UnfitVerifier`."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise UnfitVerifier("not of the form SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>")
    iterations = int(found[1])
    if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise UnfitVerifier(f"fewer than {MIN_ITERATIONS} or more than {MAX_ITERATIONS} iterations")
    try:
        salt, stored_key, server_key = (base64.b64decode(found[part], validate=True) for part in (2, 3, 4))
    except binascii.Error:
        raise UnfitVerifier("base64 that cannot be decoded") from None
    return Verifier(iterations, salt, stored_key, server_key)


def check_verifier(password: str | bytes, verifier: Verifier) -> bool:
    """Whether a verifier is that of a password. Blocks like `make_verifier`. Raises `Unfit`."""
    made = make_verifier(password, salt=verifier.salt, iterations=verifier.iterations)
    return hmac.compare_digest(made.stored_key, verifier.stored_key)


def fake_verifier(name: str, secret: bytes) -> Verifier:
    """What an unknown user shows: looks like a real one, and the same whenever somebody asks.

    RFC 5802 §9 leaves it to the server not to tell who exists. `secret` must outlive restarts, or the salts of those
    who do not exist would change and those of the others would not.
    """
    octets = fold_name(name).encode()
    salt, stored_key, server_key = (hmac.digest(secret, label + octets, "sha256") for label in (b"a\0", b"b\0", b"c\0"))
    return Verifier(SCRAM_ITERATIONS, salt[:SALT_OCTETS], stored_key, server_key)
