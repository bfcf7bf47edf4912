"""One certificate, from the account to the chain.

The steps of RFC 8555 §7, one after the other, all waiting on Trio's clock: account, order, challenges, answers, signing
request, chain. What is not here: when (`tls.acme.renewal`), how a challenge is met (`Solver`), where the result is kept
(`tls.acme.cabinet`), or the wire (`tls.acme.base.Authority`). The caller owns the deadline. Cancelled at any point:
what was put up for challenges is taken down within `CLEAR_SECONDS`, and no certificate is returned.
Failures raised: `AuthorityFailed` of a step, `ChallengeFailed` of a solver.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import trio
from attrs import field, frozen

from elemta.runtime.threads import Threads
from elemta.tls.acme.base import (
    BAD_NONCE,
    NO_ACCOUNT,
    AccountRequest,
    Authority,
    AuthorityAway,
    AuthorityRefused,
    Authorization,
    Binding,
    Challenge,
    Directory,
    Kind,
    Order,
    OrderRequest,
    RateLimited,
    Status,
)
from elemta.tls.acme.keys import Pair, PrivateKey, Unsound, issued_pair, make_key, signing_request

T = TypeVar("T")

#: Times that a step is tried whose nonce is refused. The library tries each twice: with every second nonce refused, one
#: step in 65,000 fails.
NONCE_TRIES = 8
#: Seconds between two looks at what the authority works on: the first, the most; it doubles between.
FIRST_LOOK_SECONDS = 0.5
MOST_LOOK_SECONDS = 10.0
#: Seconds for taking down what was put up for challenges, even after a cancellation.
CLEAR_SECONDS = 20.0


class ChallengeFailed(Exception):
    """A challenge cannot be met from here; the text says why, and how to mend it."""


@frozen
class Task:
    """One challenge to meet: `name` without "*.", `answer` is the key authorization (RFC 8555 §8.1)."""

    name: str
    token: str
    answer: str


class Solver(Protocol):
    """Meets challenges of one kind."""

    kind: Kind

    async def put_up(self, tasks: Sequence[Task]) -> None:
        """Have every challenge met, as far as the authority can see. Raises `ChallengeFailed`."""
        ...

    async def take_down(self, tasks: Sequence[Task]) -> None:
        """Undo it, as much as was done; never raises."""
        ...


@frozen
class Wanted:
    """The certificate that is asked for, and in whose name."""

    names: tuple[str, ...]
    email: str = ""
    agrees: bool = True
    binding: Binding | None = field(default=None, repr=False)
    profile: str = ""
    key_type: str = "ecdsa-p256"
    #: The id of the certificate that is renewed, RFC 9773 §5; empty for none.
    replaces: str = ""


#: Told the name of each step as it begins.
Tell = Callable[[str], None]


class Ordering:
    """Orders one certificate by one authority."""

    def __init__(self, authority: Authority, solver: Solver, *, threads: Threads, tell: Tell = lambda _: None) -> None:
        self._authority = authority
        self._solver = solver
        self._threads = threads
        self._tell = tell
        #: Keys are made one at a time.
        self._limiter = trio.CapacityLimiter(1)

    async def run(self, wanted: Wanted) -> Pair:
        """The certificate with its key. Raises `AuthorityFailed`, `ChallengeFailed`."""
        self._tell("asking the authority what it offers")
        directory = await self._authority.directory()
        await self._register(directory, wanted)
        self._tell(f"ordering a certificate for {', '.join(wanted.names)}")
        order = await self._new_order(directory, wanted)
        if order.status is Status.PENDING:
            await self._authorize(order)
        order = await self._until(order, (Status.READY, Status.VALID))
        key = await self._threads.run(self._limiter, make_key, wanted.key_type)
        return await self._finish(order, key, wanted.names)

    # ---- account and order -----------------------------------------------------------------------

    async def _register(self, directory: Directory, wanted: Wanted) -> None:
        """RFC 8555 §7.3: asking with a key that has an account finds it, so nothing need be remembered but the key."""
        terms = directory.terms or "none"
        if directory.needs_binding and wanted.binding is None:
            raise AuthorityRefused(
                "externalAccountRequired",
                "this authority needs an account made beforehand; set eab_key_id, eab_hmac_key as it gave them to you",
            )
        self._tell("finding or making the account")
        try:
            await nonce_safe(
                lambda: self._authority.register(AccountRequest(wanted.email, wanted.agrees, wanted.binding))
            )
        except AuthorityRefused as error:
            if error.problem != NO_ACCOUNT or wanted.agrees:
                raise
            says = f"there is no account yet, and accept_terms is false; the authority's terms of service: {terms}"
            raise AuthorityRefused(NO_ACCOUNT, says) from error

    async def _new_order(self, directory: Directory, wanted: Wanted) -> Order:
        replaces = wanted.replaces if directory.suggests_renewal else ""
        request = OrderRequest(wanted.names, wanted.profile, replaces)
        try:
            return await nonce_safe(lambda: self._authority.new_order(request))
        except RateLimited:
            raise
        except AuthorityRefused:
            if not replaces:
                raise
        # RFC 9773 §5: what was replaced before, or by another account, is refused; the certificate is wanted anyway.
        plain = OrderRequest(wanted.names, wanted.profile)
        return await nonce_safe(lambda: self._authority.new_order(plain))

    # ---- challenges ------------------------------------------------------------------------------

    async def _authorize(self, order: Order) -> None:
        pending = [
            found
            for url in order.authorizations
            if (found := await self._authorization(url)).status is not Status.VALID
        ]
        challenges = [self._challenge(each) for each in pending]
        tasks = [
            Task(each.name, challenge.token, self._authority.key_authorization(challenge.token))
            for each, challenge in zip(pending, challenges, strict=True)
        ]
        try:
            if tasks:
                self._tell(f"putting up {self._solver.kind.value} for {', '.join(task.name for task in tasks)}")
                await self._solver.put_up(tasks)
            for challenge in challenges:
                await self._answer(challenge)
            for each in pending:
                self._tell(f"waiting until the authority has seen {each.name}")
                await self._validated(each)
        finally:
            with trio.move_on_after(CLEAR_SECONDS, shield=True):
                await self._solver.take_down(tasks)

    async def _authorization(self, url: str) -> Authorization:
        found = await nonce_safe(lambda: self._authority.authorization(url))
        if found.status is Status.INVALID:
            raise _refused(found.problem, f"{found.name} is not authorized")
        return found

    def _challenge(self, authorization: Authorization) -> Challenge:
        kind = self._solver.kind
        for challenge in authorization.challenges:
            if challenge.kind is kind:
                return challenge
        offered = ", ".join(each.kind.value for each in authorization.challenges) or "nothing that is known here"
        raise AuthorityRefused(
            "unsupportedChallenge", f"for {authorization.name} it offers {offered}, not {kind.value}; set challenge"
        )

    async def _answer(self, challenge: Challenge) -> None:
        await nonce_safe(lambda: self._authority.answer(challenge))

    async def _validated(self, authorization: Authorization) -> None:
        pause = FIRST_LOOK_SECONDS
        while (await self._authorization(authorization.url)).status is not Status.VALID:
            await trio.sleep(pause)
            pause = min(pause * 2, MOST_LOOK_SECONDS)

    # ---- certificate -----------------------------------------------------------------------------

    async def _finish(self, order: Order, key: PrivateKey, names: Sequence[str]) -> Pair:
        if order.status is not Status.VALID:
            self._tell("handing over the signing request")
            request = await self._threads.run(self._limiter, signing_request, key, names)
            ready = order
            order = await nonce_safe(lambda: self._authority.finalize(ready, request))
            order = await self._until(order, (Status.VALID,))
        if not order.certificate:
            raise AuthorityAway("its valid order names no certificate")
        self._tell("fetching the certificate")
        url = order.certificate
        chain = await nonce_safe(lambda: self._authority.certificate(url))
        try:
            return await self._threads.run(self._limiter, issued_pair, key, chain, names)
        except Unsound as error:
            raise AuthorityRefused("badCertificate", f"what it issued is not what was ordered: {error}") from error

    async def _until(self, order: Order, wanted: Sequence[Status]) -> Order:
        """Look at an order until it is as wanted; the caller's deadline ends it."""
        pause, url = FIRST_LOOK_SECONDS, order.url
        while order.status not in wanted:
            if order.status is Status.INVALID:
                raise _refused(order.problem, "the order was given up without a reason")
            # RFC 8555 §7.4: a Retry-After here is about this order.
            await trio.sleep(min(order.retry_after or pause, MOST_LOOK_SECONDS))
            pause = min(pause * 2, MOST_LOOK_SECONDS)
            order = await nonce_safe(lambda: self._authority.order(url))
        return order


async def nonce_safe(step: Callable[[], Awaitable[T]]) -> T:
    """Repeat a step whose nonce was refused: that is nobody's mistake, RFC 8555 §6.5."""
    for tries in range(1, NONCE_TRIES + 1):
        try:
            return await step()
        except AuthorityRefused as error:
            if error.problem != BAD_NONCE or tries == NONCE_TRIES:
                raise
    raise AssertionError("the last try returns or raises")


def _refused(problem: AuthorityRefused | None, otherwise: str) -> AuthorityRefused:
    return problem or AuthorityRefused("invalid", otherwise)
