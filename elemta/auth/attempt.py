"""One attempt to log in, from the first response to the verdict.

Drives an exchange of `auth.sasl` with the users, the limits, the hashes behind it. What is not here: the session
(`inbound.login`), which mechanisms are offered (`auth.authenticator`), the replies' words (`auth.verdicts`).

Each step ends by the options' deadline, and then by a delay at most: backends that hang make no client hang. Failures
raised: none but defects; an attempt that is cancelled is forgotten, but for a failure that was written down already.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import trio
from attrs import frozen
from structlog.typing import FilteringBoundLogger

from elemta.auth.base import UnfitUser, User, Users, UsersAway
from elemta.auth.checks import PasswordChecks, TooBusy
from elemta.auth.failure_book import FailureBook
from elemta.auth.limits import Kind, Who
from elemta.auth.passwords import Verdict
from elemta.auth.sasl.base import (
    Authenticated,
    Challenge,
    CheckPassword,
    CheckToken,
    Exchange,
    Fault,
    NeedVerifier,
    Outcome,
    Refused,
)
from elemta.auth.sasl.preparation import Unfit, fold_name, prepare_name
from elemta.auth.scram import UnfitVerifier, Verifier, parse_verifier
from elemta.auth.senders import permit_of
from elemta.auth.tokens import TokenValidator
from elemta.auth.verdicts import (
    AWAY,
    LOCKED_OUT,
    MALFORMED,
    WRONG,
    Cause,
    ClientFacts,
    Denied,
    Granted,
)
from elemta.config.auth import SenderRule

T = TypeVar("T")

_DENIED_WRONG = Denied(WRONG, Cause.WRONG)
_DENIED_CHANNEL = Denied(WRONG, Cause.CHANNEL)
_DENIED_MALFORMED = Denied(MALFORMED, Cause.MALFORMED)
_DENIED_AWAY = Denied(AWAY, Cause.AWAY)
_DENIED_LOCKED_OUT = Denied(LOCKED_OUT, Cause.LOCKED_OUT)

Answer = Challenge | Granted | Denied


class Desk(Protocol):
    """What an attempt does beside its own exchange."""

    async def ask(self, question: Callable[[], Awaitable[T]], *, deadline: float) -> T:
        """The answer of a backend. Raises `UsersAway`."""
        ...

    def trouble_with(self, error: Exception) -> None:
        """A backend did not answer."""
        ...

    def logged_in(self, who: Who, user: User, password: bytes | None, verdict: Verdict | None) -> None:
        """Do what a login leaves to be done, later."""
        ...


class ServerSecret(Protocol):
    """A secret of the server, the same on all nodes and after a restart."""

    async def get(self) -> bytes:
        """The secret. Raises `OSError`."""
        ...


@frozen
class Backends:
    """Whom attempts ask."""

    users: Users
    checks: PasswordChecks
    book: FailureBook
    validator: TokenValidator | None
    secret: ServerSecret
    log: FilteringBoundLogger


class Attempt:
    """One exchange. `answer` takes the initial response first, None where there was none."""

    def __init__(
        self,
        desk: Desk,
        backends: Backends,
        *,
        exchange: Exchange,
        facts: ClientFacts,
        rule: SenderRule,
        seconds: float,
    ) -> None:
        """`seconds` are for each step."""
        self._desk = desk
        self._backends = backends
        self._exchange = exchange
        self._facts = facts
        self._rule = rule
        self._seconds = seconds
        self._who = Who.of(facts.address)
        self._started = 0.0
        self._user: User | None = None
        #: A failure of this attempt was counted: who breaks off after it has gained nothing, who goes on pays once.
        self._counted = False

    @property
    def claimed(self) -> str:
        """Whom the client claims to be; empty as long as it has not said."""
        return self._who.user

    async def answer(self, response: bytes | None) -> Answer:
        """What follows from a response of the client."""
        self._started = trio.current_time()
        if not self._is_welcome():  # whoever it claims to be, and before anything is looked at
            return _DENIED_LOCKED_OUT
        try:
            return await self._follow(self._exchange.step(response))
        except UsersAway as error:
            self._desk.trouble_with(error)
            return _DENIED_AWAY
        except (TooBusy, MemoryError):
            return _DENIED_AWAY

    async def _follow(self, outcome: Outcome) -> Answer:
        match outcome:
            case Challenge():
                return outcome
            case CheckPassword(user, password):
                return await self._check_password(user, password)
            case NeedVerifier(user):
                return await self._show_verifier(user)
            case CheckToken():
                return await self._check_token(outcome)
            case Authenticated():
                return self._grant(self._user, None, None)
            case Refused(_, fault):
                return await self._refused(fault)

    async def _refused(self, fault: Fault) -> Answer:
        if fault is Fault.MALFORMED:
            return _DENIED_MALFORMED
        if not self._counted:
            await self._count()
        return _DENIED_CHANNEL if fault is Fault.CHANNEL else _DENIED_WRONG

    # ---- passwords -----------------------------------------------------------------------------------

    async def _check_password(self, name: str, password: bytes) -> Answer:
        if not await self._may_try(name):
            return _DENIED_LOCKED_OUT
        user = await self._find(name)
        if not await self._may_try_as(user, name):
            return _DENIED_LOCKED_OUT
        verdict = await self._verdict(user, password)
        if verdict is None:
            return _DENIED_LOCKED_OUT
        if verdict in (Verdict.RIGHT, Verdict.RIGHT_BUT_OLD):
            return self._grant(user, password, verdict)
        if verdict is Verdict.UNKNOWN_FORM:
            self._backends.log.warning("auth.unknown_hash", user=name, remedy="set this user's password anew")
        await self._count()
        return _DENIED_WRONG

    async def _verdict(self, user: User | None, password: bytes) -> Verdict | None:
        """What the password is to the user, None for who was locked out while it waited. Raises `TooBusy`."""
        network = self._who.network
        with trio.CancelScope(deadline=self._deadline):
            own = self._backends.book.is_own_network(self._who)
            checks = self._backends.checks
            return await checks.check(user, password, network=network, is_own=own, may_try=self._is_welcome)
        raise TooBusy

    # ---- SCRAM ---------------------------------------------------------------------------------------

    async def _show_verifier(self, name: str) -> Answer:
        if not await self._may_try(name):
            return _DENIED_LOCKED_OUT
        self._user = await self._find(name)
        if not await self._may_try_as(self._user, name):
            return _DENIED_LOCKED_OUT
        return self._exchange.known(self._verifier())

    def _verifier(self) -> Verifier | None:
        user = self._user
        if user is None or not user.is_active or not user.scram:
            return None
        try:
            return parse_verifier(user.scram)
        except UnfitVerifier as error:
            self._backends.log.warning("auth.unknown_verifier", user=user.name, error=str(error))
            return None

    # ---- tokens --------------------------------------------------------------------------------------

    async def _check_token(self, shown: CheckToken) -> Answer:
        if not await self._may_try(shown.user or ""):
            return _DENIED_LOCKED_OUT
        validator = self._backends.validator
        if validator is None:
            raise UsersAway("nobody validates tokens")
        owner = await self._ask(lambda: validator.owner(shown.token))
        user = await self._owner(owner, (shown.user, shown.authzid))
        if user is not None:
            return self._grant(user, None, None)
        await self._count()
        return self._exchange.deny()

    async def _owner(self, owner: str | None, claims: tuple[str | None, str]) -> User | None:
        """The token's user, who must be one of ours and be whom the client claims to be."""
        try:
            name = prepare_name(owner or "")
        except Unfit:
            return None
        if any(claim and fold_name(claim) != name for claim in claims):
            return None
        self._who = Who.of(self._facts.address, name)
        user = await self._find(name)
        return user if user is not None and user.is_active else None

    # ---- steps ---------------------------------------------------------------------------------------

    @property
    def _deadline(self) -> float:
        return self._started + self._seconds

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        return await self._desk.ask(question, deadline=self._deadline)

    async def _find(self, name: str) -> User | None:
        try:
            return await self._ask(lambda: self._backends.users.find(name))
        except UnfitUser:  # nobody can be called so there
            return None

    def _is_welcome(self) -> bool:
        return self._backends.book.standing_here(self._who).locked is None

    async def _may_try(self, name: str) -> bool:
        who = self._who = Who.of(self._facts.address, name)
        return (await self._ask(lambda: self._backends.book.standing(who))).locked is None

    async def _may_try_as(self, user: User | None, name: str) -> bool:
        """Whether guesses at a user who was found by another name may go on.

        A statement of the operator's may find users by their address, and a collation by any accent: each such name
        would have failures of its own.
        """
        return user is None or user.name == name or await self._may_try(user.name)

    async def _count(self) -> None:
        """Write a failure down, then wait, so that who guesses is slow whoever answers how fast."""
        self._counted = True
        book, who = self._backends.book, self._who
        try:
            standing = await self._ask(lambda: book.failed(who))
        except UsersAway:
            standing = book.standing_here(who)
        if standing.locked is not None and standing.is_new:
            self._tell(standing.locked)
        await trio.sleep_until(self._started + standing.delay_seconds)

    def _tell(self, locked: Kind) -> None:
        who = self._who
        about = {Kind.ADDRESS: who.address, Kind.NETWORK: who.network, Kind.USER: who.user}[locked]
        self._backends.log.warning("auth.locked_out", kind=locked.value, about=about, client=who.address)

    def _grant(self, user: User | None, password: bytes | None, verdict: Verdict | None) -> Granted:
        assert user is not None
        self._desk.logged_in(self._who, user, password, verdict)
        return Granted(user.name, permit_of(self._rule, user))
