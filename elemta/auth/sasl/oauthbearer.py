"""OAUTHBEARER, RFC 7628.

What is not here: whether the token is good, and of whom (`auth`). Failures raised: none.
"""

import json

from elemta.auth.sasl.base import CheckToken, Circumstances, Outcome, Refusal
from elemta.auth.sasl.bearer import SEPARATOR, BearerExchange, read_fields, read_token
from elemta.auth.sasl.gs2 import read_header


class OAuthBearer(BearerExchange):
    """gs2-header ^A *(key=value ^A) ^A, RFC 7628 §3.1; of the keys, only `auth` means something to a mail server."""

    def __init__(self, circumstances: Circumstances) -> None:
        # RFC 7628 §3.2.2.
        error = {"status": "invalid_token"} | ({"scope": circumstances.scope} if circumstances.scope else {})
        super().__init__(self._read_message, error=json.dumps(error, separators=(",", ":")).encode())

    def _read_message(self, response: bytes) -> Outcome:
        header, rest = read_header(response)
        if header.binding_type is not None:
            raise Refusal("OAUTHBEARER binds to no channel")
        if not rest.startswith(SEPARATOR):
            raise Refusal("OAUTHBEARER has ^A behind its header")
        fields = read_fields(rest.removeprefix(SEPARATOR), (b"auth",))
        if not fields.get(b"auth"):
            # RFC 7628 §4.3: a client that has no token yet asks in this way what it would need.
            return self._explain()
        token = read_token(fields[b"auth"])
        self._token_shown = True
        return CheckToken(None, token, header.authzid)
