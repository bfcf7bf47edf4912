"""SCRAM-SHA-256, with channel binding as SCRAM-SHA-256-PLUS.

What is not here: verifiers (`auth.scram`), the binding's octets (`tls`). RFC 5802, RFC 7677; of the types of binding
only tls-server-end-point (RFC 5929 §4). Failures raised: `OutOfTurn`.

Why not the library `scramp`: it asks for the verifier by a call in the midst of parsing, where we have to wait for a
database, and it imports `ssl` and `secrets`, which a room without I/O does not. Its client is our peer in the tests.
"""

import base64
import hashlib
import hmac
import re

from elemta.auth.sasl.base import (
    Authenticated,
    Challenge,
    Circumstances,
    Exchange,
    Fault,
    NeedVerifier,
    Outcome,
    OutOfTurn,
    Refusal,
)
from elemta.auth.sasl.gs2 import BindingFlag, Gs2Header, read_header, read_saslname
from elemta.auth.scram import Verifier, fake_verifier

_BINDING_TYPE = "tls-server-end-point"
#: RFC 5802 §7: client-first-message-bare = [reserved-mext ","] username "," nonce ["," extensions]. A client that sends
#: `m=` needs what we do not have, RFC 5802 §5.1; other extensions are skipped.
_CLIENT_FIRST = re.compile(rb"n=([^,]*),r=([\x21-\x2b\x2d-\x7e]{1,1024})(?:,[A-Za-z]=[^,\0]+)*")
#: RFC 5802 §7: channel-binding "," nonce ["," extensions] "," proof; the proof is 32 octets of SHA-256.
_CLIENT_FINAL = re.compile(
    rb"(c=([A-Za-z0-9+/=]+),r=([\x21-\x2b\x2d-\x7e]+)(?:,[A-Za-z]=[^,\0]+)*),p=([A-Za-z0-9+/]{43}=)"
)


class Scram(Exchange):
    """Client-first, server-first, client-final, server-final; the client answers the last with nothing.

    RFC 4954 §4: 235 carries no data, so that server-final is one more challenge.
    """

    def __init__(self, circumstances: Circumstances, *, plus: bool) -> None:
        super().__init__(self._read_first, prompt=Challenge(b""))
        self._circumstances = circumstances
        self._plus = plus
        self._user = ""
        self._header: Gs2Header | None = None
        self._client_first_bare = self._server_first = self._nonce = b""
        self._verifier: Verifier | None = None

    def _read_first(self, response: bytes) -> Outcome:
        header, self._client_first_bare = read_header(response)
        self._check_flag(header)
        if self._client_first_bare.startswith(b"m="):
            raise Refusal("an extension that we do not have")
        found = _CLIENT_FIRST.fullmatch(self._client_first_bare)
        if found is None:
            raise Refusal("client-first is a name and a nonce")
        self._user = read_saslname(found[1])
        if header.authzid not in ("", self._user):
            raise Refusal("acting as another user", Fault.CREDENTIALS)
        self._nonce = found[2] + self._circumstances.nonce.encode()
        self._header = header
        return NeedVerifier(self._user)

    def _check_flag(self, header: Gs2Header) -> None:
        """RFC 5802 §6."""
        if header.flag is BindingFlag.NOT_OFFERED and self._circumstances.offers_plus:
            raise Refusal("the client did not see our offer of channel binding", Fault.CHANNEL)
        if self._plus != (header.flag is BindingFlag.USED):
            raise Refusal("the flag of channel binding does not fit the mechanism")
        if self._plus and (header.binding_type != _BINDING_TYPE or not self._circumstances.binding):
            raise Refusal(f"a channel binding other than {_BINDING_TYPE}")

    def known(self, verifier: Verifier | None) -> Challenge:
        """server-first. Without a verifier a stable fake one takes part, and no proof fits."""
        if self._header is None or self._server_first:
            raise OutOfTurn("SCRAM did not ask for a verifier")
        self._verifier = verifier
        shown = verifier or self._fake()
        salt = base64.b64encode(shown.salt)
        self._server_first = b"r=%b,s=%b,i=%d" % (self._nonce, salt, shown.iterations)
        return self._ask(self._server_first, self._read_final)

    def _fake(self) -> Verifier:
        return fake_verifier(self._user, self._circumstances.secret)

    def _read_final(self, response: bytes) -> Outcome:
        found = _CLIENT_FINAL.fullmatch(response)
        if found is None:
            raise Refusal("client-final is a binding, a nonce and a proof")
        without_proof, binding, nonce, proof = found.groups()
        self._check_binding(binding)
        if nonce != self._nonce:
            raise Refusal("another nonce")
        auth_message = b",".join((self._client_first_bare, self._server_first, without_proof))
        verifier = self._verifier or self._fake()
        if not _proves(base64.b64decode(proof), auth_message, verifier) or self._verifier is None:
            raise Refusal("the proof is wrong", Fault.CREDENTIALS)
        signature = hmac.digest(verifier.server_key, auth_message, "sha256")
        return self._ask(b"v=" + base64.b64encode(signature), self._read_end)

    def _check_binding(self, binding: bytes) -> None:
        assert self._header is not None
        data = self._circumstances.binding if self._plus else b""
        if not hmac.compare_digest(binding, base64.b64encode(self._header.octets + data)):
            raise Refusal("the client sees another channel", Fault.CHANNEL)

    def _read_end(self, response: bytes) -> Outcome:
        if response:
            raise Refusal("SCRAM ends on an empty response")
        return Authenticated(self._user)


def _proves(proof: bytes, auth_message: bytes, verifier: Verifier) -> bool:
    """RFC 5802 §3: ClientKey is the proof XOR ClientSignature, StoredKey its hash."""
    signature = hmac.digest(verifier.stored_key, auth_message, "sha256")
    client_key = bytes(left ^ right for left, right in zip(proof, signature, strict=True))
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), verifier.stored_key)
