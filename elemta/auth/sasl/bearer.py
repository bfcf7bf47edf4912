"""What the mechanisms of bearer tokens share: the token's form, the dance of a refusal.

What is not here: the messages of OAUTHBEARER (`oauthbearer`) or XOAUTH2 (`xoauth2`), whether a token is good
(`auth`). RFC 6750 §2.1, RFC 7628 §3.2. Failures raised: none.
"""

import re
from collections.abc import Callable, Sequence

from elemta.auth.sasl.base import Challenge, Exchange, Fault, Outcome, OutOfTurn, Refusal, Refused

#: Separates the fields of both messages.
SEPARATOR = b"\x01"
#: What one line of an AUTH exchange can carry is some 9,200 octets; tokens of 4 KiB are the largest in use (Entra ID).
MAX_TOKEN_OCTETS = 8192
#: RFC 6750 §2.1: b64token = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"=". The scheme's case is free,
#: RFC 9110 §11.1.
_CREDENTIALS = re.compile(rb"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)


class BearerExchange(Exchange):
    """A mechanism that shows a token, and that hears by `error`, which is JSON, why it is not good."""

    def __init__(self, first: Callable[[bytes], Outcome], *, error: bytes) -> None:
        super().__init__(first, prompt=Challenge(b""))
        self._error = error
        self._token_shown = False

    def deny(self) -> Challenge:
        """The error in JSON. Whatever the client answers, the exchange has failed."""
        if not self._token_shown:
            raise OutOfTurn("no token was shown")
        self._token_shown = False
        return self._explain()

    def _explain(self) -> Challenge:
        return self._ask(self._error, self._read_acknowledgement)

    def _read_acknowledgement(self, response: bytes) -> Outcome:
        return Refused("the token is not good", Fault.CREDENTIALS)


def read_fields(message: bytes, known: Sequence[bytes]) -> dict[bytes, bytes]:
    """The known ones of *(key=value ^A) ^A, others are skipped. Raises `Refusal`."""
    pairs = message.split(SEPARATOR)
    if len(pairs) < 2 or pairs.pop() or pairs.pop():
        raise Refusal("fields that do not end on ^A")
    fields: dict[bytes, bytes] = {}
    for pair in pairs:
        key, equals, value = pair.partition(b"=")
        if not equals or key in fields:
            raise Refusal("a field that is no pair of key and value, or comes twice")
        if key in known:
            fields[key] = value
    return fields


def read_token(credentials: bytes) -> str:
    """The token of the field `auth`. Raises `Refusal`."""
    found = _CREDENTIALS.fullmatch(credentials)
    if found is None or len(found[1]) > MAX_TOKEN_OCTETS:
        raise Refusal(f"no Bearer token of at most {MAX_TOKEN_OCTETS} octets")
    return found[1].decode()
