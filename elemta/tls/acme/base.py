"""What an ACME authority is asked, a step at a time.

Each step is one exchange over HTTP with a bound in seconds; nothing here waits for anything to become true. Whoever
orders (`tls.acme.order`) waits between the steps, on Trio's clock, so that a shutdown is prompt and the virtual clock
drives it all. What is not here: the wire (`tls.acme.library`), or the order of the steps.
RFC 8555; RFC 9773 for renewal information.
Failures defined: `AuthorityFailed` with its kinds `AuthorityAway`, `AuthorityRefused`, `RateLimited`.
"""

import enum
from typing import Protocol

from attrs import field, frozen

#: The problem of a nonce that the authority does not take, RFC 8555 §6.5: repeat the request with a new one.
BAD_NONCE = "badNonce"
#: The problem of an account that the authority does not know, RFC 8555 §7.3.1.
NO_ACCOUNT = "accountDoesNotExist"


class AuthorityFailed(Exception):
    """A step did not succeed; the text is for people and holds no secret."""


class AuthorityAway(AuthorityFailed):
    """No usable answer: unreachable, too slow, broken inside. Nobody is to blame for it here."""


class AuthorityRefused(AuthorityFailed):
    """A problem document (RFC 8555 §6.7): `problem` is the last part of its type, such as "unauthorized"."""

    def __init__(self, problem: str, detail: str) -> None:
        super().__init__(f"{detail or 'no reason given'} ({problem})")
        self.problem = problem
        self.detail = detail


class RateLimited(AuthorityRefused):
    """Too many requests, RFC 8555 §6.6. `retry_after` is in seconds from now, None when the authority did not say."""

    def __init__(self, detail: str, retry_after: float | None) -> None:
        super().__init__("rateLimited", detail)
        self.retry_after = retry_after


class Kind(enum.Enum):
    """How control over a name is shown."""

    #: RFC 8555 §8.3.
    HTTP = "http-01"
    #: RFC 8555 §8.4.
    DNS = "dns-01"


class Status(enum.Enum):
    """Where an order or an authorization is, RFC 8555 §7.1.6; what ends one without a certificate is INVALID."""

    PENDING = "pending"
    READY = "ready"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"


@frozen
class Directory:
    """What an authority says of itself, RFC 8555 §7.1.1."""

    #: The address of its terms of service, empty when it has none.
    terms: str = ""
    #: Whether an account needs an external binding.
    needs_binding: bool = False
    #: What may stand in CAA records (RFC 8659) for it.
    caa_identities: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    #: Whether it suggests when to renew, RFC 9773 §4.
    suggests_renewal: bool = False


@frozen
class Binding:
    """External account binding, RFC 8555 §7.3.4; `hmac_key` is base64url."""

    key_id: str
    hmac_key: str = field(repr=False)


@frozen
class AccountRequest:
    """What an account is asked for with. Without `agrees` one that exists is found, and none is made."""

    email: str = ""
    agrees: bool = False
    binding: Binding | None = None


@frozen
class OrderRequest:
    """A new order. `replaces` is a certificate's id by RFC 9773 §4.1, empty for none; so is `profile`."""

    names: tuple[str, ...]
    profile: str = ""
    replaces: str = ""


@frozen
class Challenge:
    """One way to show control over a name; `token` is base64url, RFC 8555 §8."""

    url: str
    kind: Kind
    token: str


@frozen
class Authorization:
    """Control over one name. `name` has no "*."; `problem` says why an invalid one is."""

    url: str
    name: str
    status: Status
    challenges: tuple[Challenge, ...] = ()
    problem: AuthorityRefused | None = None


@frozen
class Order:
    """An order, RFC 8555 §7.1.3. `certificate` is empty until it is valid; `retry_after` seconds, None if not said."""

    url: str
    status: Status
    authorizations: tuple[str, ...]
    finalize: str
    certificate: str = ""
    problem: AuthorityRefused | None = None
    retry_after: float | None = None


@frozen
class Window:
    """When the authority would have a certificate renewed, RFC 9773 §4.2: UTC in seconds since 1970.

    `retry_after` is in seconds, None when the authority did not say.
    """

    start: float
    end: float
    retry_after: float | None = None


class Authority(Protocol):
    """One authority on behalf of one account key. Every step raises `AuthorityFailed`; a cancelled one ends within the
    seconds that an exchange may take."""

    async def directory(self) -> Directory:
        """What it offers. The first step."""
        ...

    async def register(self, request: AccountRequest) -> str:
        """Find or make the account; returns its URL. The steps below need it."""
        ...

    async def new_order(self, request: OrderRequest) -> Order:
        """Order a certificate for names."""
        ...

    async def authorization(self, url: str) -> Authorization:
        """How control over one name stands."""
        ...

    async def answer(self, challenge: Challenge) -> None:
        """Say that a challenge is met."""
        ...

    async def order(self, url: str) -> Order:
        """How an order stands."""
        ...

    async def finalize(self, order: Order, csr: bytes) -> Order:
        """Hand over the signing request, DER."""
        ...

    async def certificate(self, url: str) -> bytes:
        """The certificate with its chain, PEM."""
        ...

    async def window(self, certificate_id: str) -> Window | None:
        """When to renew a certificate, None when the authority does not say such things."""
        ...

    def key_authorization(self, token: str) -> str:
        """What proves a token to be answered by the account, RFC 8555 §8.1."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...
