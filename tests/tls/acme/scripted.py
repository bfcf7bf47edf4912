"""An authority that does what a script says, in virtual time, with real certificates.

It keeps to RFC 8555's states: an order is pending until each name is authorized, a challenge is judged by asking what
was put up, a certificate is made from the signing request. What is not here: assertions, HTTP (the real authorities of
`tests/peers/test_acme.py` speak it).
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import trio
from attrs import define, evolve, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from elemta.simulation.clock import VirtualClock
from elemta.tls.acme.base import (
    BAD_NONCE,
    NO_ACCOUNT,
    AccountRequest,
    AuthorityAway,
    AuthorityFailed,
    AuthorityRefused,
    Authorization,
    Challenge,
    Directory,
    Kind,
    Order,
    OrderRequest,
    Status,
    Window,
)
from elemta.tls.acme.keys import PrivateKey
from elemta.tls.acme.order import Task

#: Seconds that an exchange takes.
EXCHANGE_SECONDS = 0.125
DAY = 86_400.0

_ISSUER = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Scripted authority")])


@define
class Billboard:
    """A `Solver` whose answers the authority reads."""

    kind: Kind = Kind.HTTP
    shown: dict[str, str] = field(factory=dict)
    history: list[str] = field(factory=list)
    wrong: bool = False

    async def put_up(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self.shown[task.token] = "nonsense" if self.wrong else task.answer
            self.history.append(f"up {task.name}")

    async def take_down(self, tasks: Sequence[Task]) -> None:
        await trio.lowlevel.checkpoint()
        for task in tasks:
            self.shown.pop(task.token, None)
            self.history.append(f"down {task.name}")


@define
class Site:
    """What outlives one `ScriptedAuthority`: its accounts, orders, key, and what goes wrong."""

    clock: VirtualClock
    billboard: Billboard
    lifetime: float = 90 * DAY
    offers: Directory = Directory()
    window: Callable[[], Window | None] = lambda: None
    #: The failures of the next exchanges, None for one that succeeds; then all succeed.
    script: Iterator[AuthorityFailed | None] = iter(())
    #: What always fails while it is set.
    always: AuthorityFailed | None = None
    #: Looks at a thing that is processed until it is done.
    looks: int = 1
    kinds: tuple[Kind, ...] = (Kind.HTTP, Kind.DNS)
    key: ec.EllipticCurvePrivateKey = field(factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    accounts: set[str] = field(factory=set)
    orders: list[OrderRequest] = field(factory=list)
    #: Every step with the time on Trio's clock.
    steps: list[tuple[float, str]] = field(factory=list)
    issued: list[float] = field(factory=list)
    chains: dict[str, bytes] = field(factory=dict)
    answered: dict[str, int] = field(factory=dict)

    def certify(self, csr: bytes) -> bytes:
        request = x509.load_der_x509_csr(csr)
        alternatives = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        now = datetime.fromtimestamp(self.clock.wall(), UTC).replace(microsecond=0)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(_ISSUER)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(seconds=self.lifetime))
            .add_extension(alternatives.value, critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        self.issued.append(trio.current_time())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


class ScriptedAuthority:
    """One conversation with a `Site`."""

    def __init__(self, site: Site, key: PrivateKey) -> None:
        self._site = site
        self._account = str(key.public_key().public_numbers())
        self._order: Order | None = None
        self._looks = 0
        self._names: tuple[str, ...] = ()

    async def _step(self, name: str) -> None:
        self._site.steps.append((trio.current_time(), name))
        await trio.sleep(EXCHANGE_SECONDS)
        if self._site.always is not None:
            raise self._site.always
        failure = next(self._site.script, None)
        if failure is not None:
            raise failure

    async def directory(self) -> Directory:
        await self._step("directory")
        return self._site.offers

    async def register(self, request: AccountRequest) -> str:
        await self._step("register")
        if self._account not in self._site.accounts and not request.agrees:
            raise AuthorityRefused(NO_ACCOUNT, "no such account")
        self._site.accounts.add(self._account)
        return "account"

    async def new_order(self, request: OrderRequest) -> Order:
        await self._step("new_order")
        self._site.orders.append(request)
        self._names = request.names
        self._order = Order("order", Status.PENDING, request.names, "finalize")
        return self._order

    async def authorization(self, url: str) -> Authorization:
        await self._step("authorization")
        token = f"token-{url.replace('.', '-')}-{len(self._site.orders)}"
        challenges = tuple(Challenge(token, kind, token) for kind in self._site.kinds)
        found = Authorization(url, url, Status.PENDING, challenges)
        if token not in self._site.answered:
            return found
        self._site.answered[token] += 1
        if self._site.answered[token] <= self._site.looks:
            return found
        if self._site.billboard.shown.get(token) == self.key_authorization(token):
            return evolve(found, status=Status.VALID)
        return evolve(found, status=Status.INVALID, problem=AuthorityRefused("unauthorized", f"nothing at {url}"))

    async def answer(self, challenge: Challenge) -> None:
        await self._step("answer")
        self._site.answered[challenge.token] = 0

    async def order(self, url: str) -> Order:
        await self._step("order")
        assert self._order is not None
        self._looks += 1
        if self._looks > self._site.looks:
            status = Status.VALID if self._order.certificate else Status.READY
            self._order = evolve(self._order, status=status)
        return self._order

    async def finalize(self, order: Order, csr: bytes) -> Order:
        await self._step("finalize")
        self._site.chains["certificate"] = self._site.certify(csr)
        self._looks = 0
        self._order = evolve(order, status=Status.PROCESSING, certificate="certificate")
        return self._order

    async def certificate(self, url: str) -> bytes:
        await self._step("certificate")
        return self._site.chains[url]

    async def window(self, certificate_id: str) -> Window | None:
        await self._step("window")
        assert certificate_id.count(".") == 1
        return self._site.window()

    def key_authorization(self, token: str) -> str:
        return f"{token}.{hash(self._account) & 0xFFFF}"

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def nonces(times: int) -> Iterator[AuthorityFailed | None]:
    """So many refused nonces after the first exchange."""
    yield None
    for _ in range(times):
        yield AuthorityRefused(BAD_NONCE, "a nonce of another day")


AWAY = AuthorityAway("it is not reached: Connection refused")
