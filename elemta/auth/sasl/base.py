"""The common shape of the mechanisms: what a server hears from an exchange.

What is not here: the mechanisms (a module each), base64, cancelling by `*` or the octets of a line (`smtp`), and the
decision itself: who drives an exchange asks the users, hashes, limits and answers. RFC 4422 §3.

An exchange is driven like this: `step(initial response or None)`, then by outcome:

- `Challenge`: 334 with its data; the answer goes to `step`.
- `CheckPassword`: the exchange is over; the driver decides.
- `CheckToken`: 235 when the token is good; otherwise `deny()` gives the `Challenge` that tells the client why.
- `NeedVerifier`: look it up, then `known(verifier or None)` gives the next `Challenge`.
- `Authenticated`: the exchange has decided by itself: 235.
- `Refused`: by its `Fault`.

Failures raised: `OutOfTurn`, always a mistake of the driver; nothing that a client sends raises anything.
"""

import enum
from collections.abc import Callable

from attrs import field, frozen

from elemta.auth.sasl.preparation import Unfit
from elemta.auth.scram import Verifier

#: RFC 5802 §5.1 asks for a nonce that cannot be guessed or repeated; 18 octets are 24 characters of base64, and more
#: than the 128 bits that are usual.
NONCE_OCTETS = 18


class Fault(enum.Enum):
    """Why an exchange ended without a user."""

    #: What came does not follow the mechanism: 501 5.5.2, RFC 4954 §4.
    MALFORMED = "malformed"
    #: Somebody was wrong about who they are: 535 5.7.8, RFC 4954 §6. It counts as a failure.
    CREDENTIALS = "credentials"
    #: The client sees another channel, or another offer, than we gave: 535 5.7.8. Somebody may stand between.
    CHANNEL = "channel"


@frozen
class Challenge:
    """Data for the client, before base64."""

    data: bytes


@frozen
class CheckPassword:
    """Somebody claims to be `user` by a password: UTF-8, at most `MAX_PASSWORD_OCTETS`, as it came.

    `authzid` is empty, or another spelling of the same user.
    """

    user: str
    password: bytes = field(repr=False)
    authzid: str = ""


@frozen
class CheckToken:
    """Somebody shows a bearer token; `user` is who they claim to be, None where the mechanism leaves that to the token.

    `authzid` is who they want to act as, empty for whom the token names. Anybody but the token's user is refused.
    """

    user: str | None
    token: str = field(repr=False)
    authzid: str = ""


@frozen
class NeedVerifier:
    """SCRAM wants to know the verifier of a user."""

    user: str


@frozen
class Authenticated:
    """The client has proven to be this user."""

    user: str


@frozen
class Refused:
    """The exchange is over. The reason is for the log: it repeats nothing that the client sent."""

    reason: str
    fault: Fault = Fault.MALFORMED


Outcome = Challenge | CheckPassword | CheckToken | NeedVerifier | Authenticated | Refused


@frozen
class Circumstances:
    """What the mechanisms have to know of the connection and the server.

    - `nonce`: of this exchange alone, from a secure source, printable ASCII without commas (RFC 5802 §5.1);
      `NONCE_OCTETS` says how many random octets it is made of.
    - `binding`: the tls-server-end-point octets of our certificate, RFC 5929 §4; empty without TLS.
    - `offers_plus`: whether this connection was offered SCRAM-SHA-256-PLUS.
    - `secret`: of the server, the same after a restart and on every node; from it come the salts of unknown users.
    - `scope`: what a bearer token must have, told to clients whose token is not good enough.
    """

    nonce: str = ""
    binding: bytes = b""
    offers_plus: bool = False
    secret: bytes = field(default=b"", repr=False)
    scope: str = ""


class OutOfTurn(RuntimeError):
    """The driver called an exchange in an order that no mechanism has."""


class Refusal(Exception):
    """Ends an exchange from within; becomes `Refused`."""

    def __init__(self, reason: str, fault: Fault = Fault.MALFORMED) -> None:
        super().__init__(reason)
        self.fault = fault


class Exchange:
    """One attempt to authenticate. `first` reads the first response; `prompt` asks for it where none came along."""

    def __init__(self, first: Callable[[bytes], Outcome], *, prompt: Challenge) -> None:
        self._read_next: Callable[[bytes], Outcome] | None = first
        self._prompt: Challenge | None = prompt

    def step(self, response: bytes | None) -> Outcome:
        """What follows from a response; None, in the first step only, when the client gave no initial response."""
        prompt, self._prompt = self._prompt, None
        read = self._read_next
        if read is None or (response is None and prompt is None):
            raise OutOfTurn("this exchange awaits no response")
        if response is None:
            assert prompt is not None
            return prompt
        self._read_next = None
        try:
            return read(response)
        except Refusal as refusal:
            return Refused(str(refusal), refusal.fault)
        except Unfit as unfit:
            return Refused(str(unfit))

    def known(self, verifier: Verifier | None) -> Challenge:
        """Go on after `NeedVerifier`; None for a user who is unknown, disabled or has none, which nobody can tell."""
        raise OutOfTurn("this mechanism asks for no verifier")

    def deny(self) -> Challenge:
        """The token of `CheckToken` is not good: what the client is told before the refusal."""
        raise OutOfTurn("this mechanism shows no token")

    def _ask(self, data: bytes, then: Callable[[bytes], Outcome]) -> Challenge:
        """Send data, read the answer by `then`."""
        self._read_next = then
        return Challenge(data)
