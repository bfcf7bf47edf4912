"""Users opened by a command itself.

A command needs no server: it opens the same file or database. A server sees what is changed at its next look-up.
A password comes from a prompt, or, where standard input is no terminal, from one line of it; never from an argument,
which every user of the machine could read. What is not here: what is done with the users (`cli.user`).
Everything that is slow to import is imported when a command runs. Failure raised: `CommandError`.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from elemta.cli.invocation import Invocation
from elemta.cli.output import CommandError, ExitCode

if TYPE_CHECKING:
    from elemta.auth.base import ManagedUsers, User
    from elemta.config.auth import AuthSection

T = TypeVar("T")

#: Seconds to close a database.
CLOSE_SECONDS = 10.0
#: Octets read of the line with a password; more than any password may have.
LINE_OCTETS = 4096

Job = Callable[["ManagedUsers", "AuthSection"], Awaitable[T]]


def with_users(invocation: Invocation, job: Job[T]) -> T:
    """Run a job on the users of the configuration. Raises `CommandError`."""
    auth = invocation.load().config.auth
    import trio

    from elemta.auth.base import NoSuchUser, NotManaged, UnfitUser, UserExists, UsersAway, UsersUnusable

    try:
        return trio.run(_opened, auth, job)
    except UsersUnusable as error:
        raise CommandError(f"the users cannot be used: {error}", ExitCode.CONFIG) from None
    except UsersAway as error:
        raise CommandError(f"the users are away: {error}", ExitCode.TEMPORARY) from None
    except (NoSuchUser, NotManaged, UnfitUser, UserExists) as error:
        raise CommandError(f"{error}.") from None


async def _opened(auth: "AuthSection", job: Job[T]) -> T:
    import trio

    from elemta.observe.log import make_logger
    from elemta.runtime.world import system_runtime
    from elemta.supervisor.user_backends import make_users

    async with make_users(auth, system_runtime(), log=make_logger("error", "console", sys.stderr)) as backend:
        try:
            await backend.users.open()
            return await job(backend.users, auth)
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await backend.users.close()


async def existing(users: "ManagedUsers", name: str) -> "User":
    """The user of a name. Raises `NoSuchUser`."""
    from elemta.auth.base import NoSuchUser

    user = await users.find(name)
    if user is None:
        raise NoSuchUser(f"there is no user {name!a}")
    return user


# ---- passwords -----------------------------------------------------------------------------------


def asked_password(*, twice: bool) -> str:
    """A password from a prompt, or the line on standard input. Raises `CommandError`.

    It blocks, Trio's loop as well: nothing else is under way, and a Ctrl-C reaches it here.
    """
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=twice, err=True)
        return password
    line = sys.stdin.buffer.readline(LINE_OCTETS)
    octets = line.removesuffix(b"\n").removesuffix(b"\r")
    if not octets:
        raise CommandError("there is no password on standard input: give it as one line.", ExitCode.USAGE)
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise CommandError("the password on standard input is no UTF-8.", ExitCode.USAGE) from None


def with_password(user: "User", password: str, *, scram: bool) -> "User":
    """A user with a new password; without a verifier of SCRAM unless one is wanted. Raises `CommandError`."""
    import os

    from attrs import evolve

    from elemta.auth.passwords import PasswordHasher
    from elemta.auth.sasl.preparation import Unfit
    from elemta.auth.scram import SALT_OCTETS, make_verifier

    try:
        stored = PasswordHasher().hash(password)
        verifier = make_verifier(password, salt=os.urandom(SALT_OCTETS)).text() if scram else ""
    except Unfit as error:
        raise CommandError(f"that can be nobody's password: {error}.", ExitCode.USAGE) from None
    return evolve(user, password=stored, scram=verifier)


def wants_scram(auth: "AuthSection", said: bool | None) -> bool:
    """Whether a verifier is kept: as somebody said, else where the configuration offers SCRAM."""
    return said if said is not None else any(name.startswith("SCRAM-") for name in auth.mechanisms)
