"""XOAUTH2, Google's form of bearer tokens.

What is not here: whether the token is good (`auth`). Failures raised: none. Source, which Microsoft follows as well:
developers.google.com/workspace/gmail/imap/xoauth2-protocol.
"""

import json

from elemta.auth.sasl.base import CheckToken, Circumstances, Outcome, Refusal
from elemta.auth.sasl.bearer import BearerExchange, read_fields, read_token
from elemta.auth.sasl.preparation import prepare_name


class XOAuth2(BearerExchange):
    """user=name ^A auth=Bearer token ^A ^A. After an error the client sends an empty response, or cancels."""

    def __init__(self, circumstances: Circumstances) -> None:
        error = {"status": "401", "schemes": "bearer", "scope": circumstances.scope}
        super().__init__(self._read_message, error=json.dumps(error, separators=(",", ":")).encode())

    def _read_message(self, response: bytes) -> Outcome:
        fields = read_fields(response, (b"user", b"auth"))
        if set(fields) != {b"user", b"auth"}:
            raise Refusal("XOAUTH2 has a user and a token")
        user, token = prepare_name(fields[b"user"]), read_token(fields[b"auth"])
        self._token_shown = True
        return CheckToken(user, token)
