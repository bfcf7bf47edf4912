"""Who may log in, by which mechanism, on which connection.

What is not here: one attempt (`auth.attempt`), where users are kept (`auth.users_…`), the SMTP session
(`inbound.login`). The service opens the users, and goes on trying while their database is away: the server serves all
the same, AUTH is answered 454 meanwhile (RFC 4954 §6).

What a login leaves to be done (the time of it, a better hash, SCRAM's verifier) is done by tasks of this service for
which no client waits; when too many are under way it is left for the next login. Failures raised: none.
"""

import base64
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import trio
from attrs import frozen

from elemta.auth.attempt import Attempt, Backends
from elemta.auth.base import UnfitUser, User, UsersAway
from elemta.auth.limits import MAX_DELAY_SECONDS, Who
from elemta.auth.passwords import Verdict
from elemta.auth.questions import Questions
from elemta.auth.sasl.base import NONCE_OCTETS, Circumstances
from elemta.auth.sasl.mechanisms import begin
from elemta.auth.sasl.preparation import Unfit
from elemta.auth.verdicts import ClientFacts
from elemta.config.auth import SenderRule
from elemta.observe.metrics import Metrics
from elemta.runtime.clock import Clock

T = TypeVar("T")

#: Mechanisms that need a validator of tokens; those of SCRAM.
TOKEN_MECHANISMS = frozenset({"OAUTHBEARER", "XOAUTH2"})
PLUS_MECHANISM = "SCRAM-SHA-256-PLUS"

#: Seconds between two tries to open users that are away, at first and at most.
FIRST_RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0
#: Seconds between two log lines about users that do not answer.
LOG_SECONDS = 60.0
#: Seconds for which the last login's time is good enough: a client that checks its mail all day writes once an hour.
LOGIN_NOTE_SECONDS = 3600.0


@frozen
class LoginOptions:
    """What the operator wants. `seconds` are for one step of an exchange, `failures` those of a session before 421."""

    mechanisms: tuple[str, ...]
    senders: SenderRule
    seconds: float
    failures: int
    scope: str = ""


class Authenticator:
    """The service that all sessions log in at."""

    def __init__(
        self,
        backends: Backends,
        options: LoginOptions,
        *,
        clock: Clock,
        metrics: Metrics,
        chance: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`chance(n)` gives n octets that nobody can guess."""
        self.options = options
        self._backends = backends
        self._log = backends.log
        self._clock = clock
        self.metrics = metrics
        self._chance = chance
        self._questions = Questions(backends.log)
        #: SCRAM's salts of unknown users come from it.
        self._secret = b""
        self._open = False
        self._trouble = "the users have not been asked for yet"
        self._next_log = 0.0
        self._makes_verifiers = any(name.startswith("SCRAM-") for name in options.mechanisms)

    @property
    def trouble(self) -> str:
        """Why nobody can log in now, for people; empty where all is well."""
        return self._trouble

    @property
    def wait_seconds(self) -> float:
        """How long an answer may take at most."""
        return self.options.seconds + MAX_DELAY_SECONDS

    # ---- the service ---------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Ready at once, whether or not the users answer."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._questions.run)
            nursery.start_soon(self._open_users)
            task_status.started()

    async def _open_users(self) -> None:
        pause = FIRST_RETRY_SECONDS
        while True:
            try:
                await self._backends.users.open()
                if self._makes_verifiers:
                    self._secret = await self._backends.secret.get()
                break
            except (UsersAway, UnfitUser, OSError) as error:  # unfit: a table that refuses a name with small letters
                self.trouble_with(error)
            await trio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_SECONDS)
        self._open = True
        self._trouble = ""

    async def aclose(self) -> None:
        """Let go of users and validator, once `run` has ended."""
        await self._backends.users.close()
        if self._backends.validator is not None:
            await self._backends.validator.aclose()

    # ---- for sessions --------------------------------------------------------------------------------

    def mechanisms(self, facts: ClientFacts) -> tuple[str, ...]:
        """What a connection is offered, in the operator's order: nothing in the clear but within this machine."""
        if not (facts.encrypted or facts.local):
            return ()
        return tuple(name for name in self.options.mechanisms if self._is_possible(name, facts))

    def _is_possible(self, name: str, facts: ClientFacts) -> bool:
        if name == PLUS_MECHANISM:
            return facts.encrypted and bool(facts.binding)
        return name not in TOKEN_MECHANISMS or self._backends.validator is not None

    def begin(self, mechanism: str, facts: ClientFacts) -> Attempt:
        """An attempt by one of the connection's `mechanisms`."""
        options = self.options
        circumstances = Circumstances(
            nonce=base64.b64encode(self._chance(NONCE_OCTETS)).decode(),
            binding=facts.binding,
            offers_plus=PLUS_MECHANISM in self.mechanisms(facts),
            secret=self._secret,
            scope=options.scope,
        )
        exchange = begin(mechanism, circumstances)
        return Attempt(
            self, self._backends, exchange=exchange, facts=facts, rule=options.senders, seconds=options.seconds
        )

    # ---- for attempts --------------------------------------------------------------------------------

    async def ask(self, question: Callable[[], Awaitable[T]], *, deadline: float) -> T:
        """The answer of a backend. Raises `UsersAway`."""
        if not self._open:
            raise UsersAway(self._trouble)
        answer = await self._questions.ask(question, deadline=deadline)
        self._trouble = ""
        return answer

    def trouble_with(self, error: Exception) -> None:
        """A backend did not answer: say so at most once a minute."""
        self._trouble = str(error)
        now = trio.current_time()
        if now >= self._next_log:
            self._next_log = now + LOG_SECONDS
            self._log.warning("auth.users_away", users=self._backends.users.name, error=str(error))

    def logged_in(self, who: Who, user: User, password: bytes | None, verdict: Verdict | None) -> None:
        """Do what a login leaves to be done, later."""
        self._questions.leave(partial(self._backends.book.succeeded, who))
        if user.last_login_at is None or self._clock.wall() - user.last_login_at >= LOGIN_NOTE_SECONDS:
            self._questions.leave(partial(self._backends.users.note_login, user.name, self._clock.wall()))
        if password is None:
            return
        lacks_verifier = self._makes_verifiers and not user.scram
        if verdict is Verdict.RIGHT_BUT_OLD or lacks_verifier:
            rehash = verdict is Verdict.RIGHT_BUT_OLD
            self._questions.leave(partial(self._renew, user, password, rehash=rehash))

    async def _renew(self, user: User, password: bytes, *, rehash: bool) -> None:
        """Keep the password in today's form, with SCRAM's verifier where that is wanted."""
        checks = self._backends.checks
        try:
            stored = await checks.hash(password) if rehash else user.password
            scram = await checks.verifier(password) if self._makes_verifiers else None
        except (Unfit, MemoryError):
            return
        await self._backends.users.renew(user.name, old=user.password, password=stored, scram=scram)
