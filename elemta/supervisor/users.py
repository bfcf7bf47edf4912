"""The authenticator that a configuration asks for, with what must run beside it.

What is not here: the users (`supervisor.user_backends`), attempts to log in (`auth`). Users that are away do not keep a
server from starting: AUTH is answered 454 until they are there.

In dev mode users are those that are configured, and any of them may send as anybody; nobody is locked out, for a
developer's tests of wrong passwords would be. Failure raised: `UsersUnusable` for settings that name no users.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from elemta.auth.attempt import Backends
from elemta.auth.authenticator import TOKEN_MECHANISMS, Authenticator, LoginOptions
from elemta.auth.checks import PasswordChecks
from elemta.auth.credentials import CredentialCache
from elemta.auth.failure_book import FailureBook, MemoryBook, NoBook
from elemta.auth.limits import FailureLimits
from elemta.auth.passwords import PasswordHasher
from elemta.auth.server_secret import FileSecret, SharedSecret
from elemta.auth.tokens import TokenValidator
from elemta.config.auth import AuthSection, SenderRule
from elemta.config.sections import Config
from elemta.observe.watch import Watch
from elemta.runtime.world import Runtime
from elemta.supervisor.user_backends import UserBackend, make_users

#: Seconds that closing users and connections may take.
CLOSE_SECONDS = 5.0


@asynccontextmanager
async def login_of(config: Config, runtime: Runtime, watch: Watch) -> AsyncIterator[Authenticator | None]:
    """The authenticator, running, for the block; None where clients may not authenticate. Raises `UsersUnusable`."""
    if not config.auth.enabled:
        yield None
        return
    async with make_users(config.auth, runtime, log=watch.log) as backend:
        authenticator = _authenticator(config, runtime, backend, watch=watch)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(authenticator.run)
                yield authenticator
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await authenticator.aclose()


def _authenticator(config: Config, runtime: Runtime, backend: UserBackend, *, watch: Watch) -> Authenticator:
    auth = config.auth
    file = FileSecret(Path(config.queue_dir), runtime.threads)
    backends = Backends(
        users=backend.users,
        checks=PasswordChecks(PasswordHasher(), CredentialCache(auth.credential_cache), runtime.threads),
        book=_book(config, backend, watch),
        validator=_validator(auth, runtime),
        secret=file if backend.database is None else SharedSecret(backend.database, file),
        log=watch.log,
    )
    options = LoginOptions(
        mechanisms=auth.mechanisms,
        senders=SenderRule.ANY if config.dev_mode else auth.senders,
        seconds=auth.timeout,
        failures=auth.max_failures_per_session,
        scope=auth.oauth.scope or "",
    )
    return Authenticator(backends, options, clock=runtime.clock, metrics=watch.metrics)


def _book(config: Config, backend: UserBackend, watch: Watch) -> FailureBook:
    if config.dev_mode:
        return NoBook()
    auth = config.auth
    limits = FailureLimits(
        auth.max_failures_per_address, auth.max_failures_per_network, auth.max_failures_per_user, auth.lockout
    )
    if backend.database is None:
        return MemoryBook(limits)
    from elemta.auth.shared_failures import SharedBook

    return SharedBook(backend.database, limits, watch.log)


def _validator(auth: AuthSection, runtime: Runtime) -> TokenValidator | None:
    oauth = auth.oauth
    if oauth.introspection_url is None or not TOKEN_MECHANISMS & frozenset(auth.mechanisms):
        return None
    from elemta.auth.oauth import Introspection, IntrospectionOptions

    options = IntrospectionOptions(
        url=oauth.introspection_url,
        client_id=oauth.client_id or "",
        client_secret=oauth.client_secret or "",
        user_claim=oauth.user_claim,
        scope=oauth.scope or "",
        seconds=oauth.timeout,
    )
    return Introspection(options, runtime.threads, runtime.clock)
