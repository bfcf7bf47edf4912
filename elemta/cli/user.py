"""The commands `elemta user add | list | show | change | passwd | disable | enable | delete | import | test`.

What is not here: opening the users (`cli.user_store`), what is printed (`cli.user_output`), imports
(`cli.user_import`). They work beside a running server and without one.
"""

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from attrs import frozen

from elemta.cli.invocation import Invocation
from elemta.cli.output import CommandError, Output, output_option, write_record, write_rows
from elemta.cli.queue_orders import must_ask
from elemta.cli.queue_output import TABLE_ROWS, note
from elemta.cli.user_import import import_command
from elemta.cli.user_output import COLUMNS, NONE, UNUSABLE, cells_of, document_of, facts_of, password_form
from elemta.cli.user_store import asked_password, existing, wants_scram, with_password, with_users

if TYPE_CHECKING:
    from elemta.auth.base import ManagedUsers, User
    from elemta.config.auth import AuthSection

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: Users asked for at once.
PAGE_USERS = 500


class Tested(enum.IntEnum):
    """How `elemta user test` ends; 65, 67 and 77 are those of sysexits.h."""

    RIGHT = 0
    WRONG = 1
    #: There is nothing that a password could be checked against.
    NO_PASSWORD = 65
    NO_USER = 67
    DISABLED = 77


@click.group()
def user() -> None:
    """Look after the users who may log in.

    Passwords come from a prompt, or from one line of standard input.

    \b
    elemta user add bob@example.com --sender sales@example.com
    elemta user passwd bob@example.com < password.txt
    elemta user import users.csv
    """


# ---- what a user may be --------------------------------------------------------------------------


@frozen
class _Facts:
    """What options say of a user; None leaves it."""

    email: str | None
    full_name: str | None
    admin: bool | None
    groups: tuple[str, ...]
    senders: tuple[str, ...]


def facts_options(command: _Command) -> _Command:
    """Add the options that say what a user is."""
    for option in (
        click.option("--sender", "senders", multiple=True, metavar="ADDRESS|@DOMAIN", help="May send as; repeatable."),
        click.option("--group", "groups", multiple=True, metavar="NAME", help="Is in a group; repeatable."),
        click.option("--admin/--no-admin", default=None, help="Whether the user administers the server."),
        click.option("--full-name", metavar="NAME", help="The person's name."),
        click.option("--email", metavar="ADDRESS", help="The user's own address, where the name is none."),
    ):
        command = option(command)
    return command


scram_option = click.option(
    "--scram/--no-scram",
    default=None,
    help="Whether to keep a SCRAM verifier too; by default where auth.mechanisms has SCRAM.",
)


def _with_facts(user: "User", facts: _Facts) -> "User":
    from attrs import evolve

    from elemta.auth.base import SENDERS_ATTRIBUTE

    attributes = dict(user.attributes)
    if facts.senders:
        attributes[SENDERS_ATTRIBUTE] = " ".join(facts.senders).strip()
    return evolve(
        user,
        email=user.email if facts.email is None else facts.email,
        full_name=user.full_name if facts.full_name is None else facts.full_name,
        is_admin=user.is_admin if facts.admin is None else facts.admin,
        groups=tuple(group for group in facts.groups if group) if facts.groups else user.groups,
        attributes={key: value for key, value in attributes.items() if value},
    )


# ---- the commands --------------------------------------------------------------------------------


@user.command()
@click.argument("name")
@facts_options
@scram_option
@click.option("--disabled", is_flag=True, help="Not to log in yet.")
@click.pass_obj
def add(invocation: Invocation, /, name: str, *, scram: bool | None, disabled: bool, **facts: Any) -> None:
    """Add a user.

    \b
    elemta user add bob@example.com --full-name "Bob" --sender sales@example.com
    printf '%s\\n' "$PASSWORD" | elemta user add bob@example.com
    """

    async def job(users: "ManagedUsers", auth: "AuthSection") -> None:
        from attrs import evolve

        from elemta.auth.base import User, UserExists
        from elemta.auth.records import checked

        # What cannot be added is said before somebody types a password.
        made = checked(_with_facts(User(name=name), _Facts(**facts)))
        if await _is_there(users, made.name):
            raise UserExists(f"there is a user {made.name} already")
        password = asked_password(twice=True)
        made = with_password(evolve(made, is_active=not disabled), password, scram=wants_scram(auth, scram))
        await users.add(made)
        click.echo(f"{made.name} is added to {users.name}.")

    with_users(invocation, job)


async def _is_there(users: "ManagedUsers", name: str) -> bool:
    from elemta.auth.base import UsersUnusable

    try:
        return await users.find(name) is not None
    except UsersUnusable:
        # A file that is not there yet begins with its first user; whatever else is wrong is said when it is written.
        return False


@user.command(name="list")
@click.argument("text", required=False, default="")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N users.")
@click.option("--all", "every", is_flag=True, help=f"Every user: a table shows {TABLE_ROWS} otherwise.")
@output_option
@click.pass_obj
def list_command(invocation: Invocation, text: str, *, limit: int | None, every: bool, output: Output) -> None:
    """List users by name, or those whose name or address has TEXT in it.

    \b
    elemta user list example.com
    elemta user list -o json | jq '.[] | select(.is_active | not) | .name'
    """
    most = limit or (TABLE_ROWS if output is Output.TABLE and not every else None)

    async def job(users: "ManagedUsers", _auth: "AuthSection") -> "list[User]":
        found: list[User] = []
        while most is None or len(found) <= most:
            page = await users.list(containing=text, after=found[-1].name if found else "", limit=PAGE_USERS)
            if not page:
                break
            found += page
        return found

    found = with_users(invocation, job)
    make = cells_of if output is Output.TABLE else document_of
    write_rows((make(each) for each in found[:most]), COLUMNS, output=output)
    if most is not None and len(found) > most and limit is None:
        note(f"These are the first {most}; --all shows every one, --limit N more.")


@user.command()
@click.argument("name")
@output_option
@click.pass_obj
def show(invocation: Invocation, name: str, *, output: Output) -> None:
    """Show one user.

    \b
    elemta user show bob@example.com
    """
    found = with_users(invocation, lambda users, _: existing(users, name))
    write_record(facts_of(found) if output is Output.TABLE else document_of(found), output=output)


@user.command()
@click.argument("name")
@facts_options
@click.pass_obj
def change(invocation: Invocation, /, name: str, **facts: Any) -> None:
    """Change what is known of a user. --group and --sender stand for all of them; an empty one for none.

    \b
    elemta user change bob@example.com --sender sales@example.com --sender @example.net
    elemta user change bob@example.com --no-admin --group ""
    """

    async def job(users: "ManagedUsers", _auth: "AuthSection") -> None:
        found = await existing(users, name)
        await users.update(_with_facts(found, _Facts(**facts)))
        click.echo(f"{found.name} is changed.")

    with_users(invocation, job)


@user.command()
@click.argument("name")
@scram_option
@click.pass_obj
def passwd(invocation: Invocation, name: str, *, scram: bool | None) -> None:
    """Give a user a new password.

    \b
    elemta user passwd bob@example.com
    """

    async def job(users: "ManagedUsers", auth: "AuthSection") -> None:
        found = await existing(users, name)
        password = asked_password(twice=True)
        # A verifier of the old password must not stay: it would let that in.
        keeps = wants_scram(auth, scram) or (scram is None and bool(found.scram))
        await users.update(with_password(found, password, scram=keeps))
        click.echo(f"{found.name} has a new password.")

    with_users(invocation, job)


def _set_active(invocation: Invocation, name: str, active: bool) -> None:
    async def job(users: "ManagedUsers", _auth: "AuthSection") -> None:
        from attrs import evolve

        found = await existing(users, name)
        await users.update(evolve(found, is_active=active))
        click.echo(f"{found.name} may log in." if active else f"{found.name} may not log in any more.")

    with_users(invocation, job)


@user.command()
@click.argument("name")
@click.pass_obj
def disable(invocation: Invocation, name: str) -> None:
    """Let a user not log in any more."""
    _set_active(invocation, name, active=False)


@user.command()
@click.argument("name")
@click.pass_obj
def enable(invocation: Invocation, name: str) -> None:
    """Let a user log in again."""
    _set_active(invocation, name, active=True)


@user.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(invocation: Invocation, name: str, *, yes: bool) -> None:
    """Remove a user.

    Asks first; where nobody can be asked, --yes must be given.
    """
    if not yes:
        must_ask("removing a user")

    async def job(users: "ManagedUsers", _auth: "AuthSection") -> bool:
        found = await existing(users, name)
        if not yes and not click.confirm(f"Remove {found.name}?", err=True):
            return False
        await users.delete(found.name)
        click.echo(f"{found.name} is removed.")
        return True

    if not with_users(invocation, job):
        raise CommandError("nothing was removed.")


@user.command()
@click.argument("name")
@click.pass_obj
def test(invocation: Invocation, name: str) -> None:
    """Say whether a password is a user's.

    Exits with 0 when it is, 1 when it is wrong, 65 when the user has no usable password, 67 when there is no such user,
    77 when the user is disabled.

    \b
    elemta user test bob@example.com
    """

    async def job(users: "ManagedUsers", _auth: "AuthSection") -> "tuple[User | None, str]":
        return await users.find(name), asked_password(twice=False)

    found, password = with_users(invocation, job)
    verdict, says = _verdict(found, password)
    click.echo(says)
    click.get_current_context().exit(verdict)


def _verdict(found: "User | None", password: str) -> tuple[Tested, str]:
    from elemta.auth.passwords import PasswordHasher, Verdict

    if found is None:
        return Tested.NO_USER, "There is no such user."
    form = password_form(found.password)
    if form in (NONE, UNUSABLE):
        what = "no password" if form == NONE else "an unusable password, in plain text or an unknown form"
        return Tested.NO_PASSWORD, f"{found.name} has {what}: set one with `elemta user passwd`."
    verdict = PasswordHasher().verify(password, found.password)
    if verdict not in (Verdict.RIGHT, Verdict.RIGHT_BUT_OLD):
        return Tested.WRONG, "The password is wrong."
    if not found.is_active:
        return Tested.DISABLED, f"The password is right, but {found.name} is disabled."
    if not _verifier_fits(found, password):
        return Tested.WRONG, "The password is right, but the SCRAM verifier is another's: set the password anew."
    old = " (it is hashed anew at the next login)" if verdict is Verdict.RIGHT_BUT_OLD else ""
    return Tested.RIGHT, f"The password is right: {form}{old}."


def _verifier_fits(found: "User", password: str) -> bool:
    from elemta.auth.scram import UnfitVerifier, check_verifier, parse_verifier

    try:
        return not found.scram or check_verifier(password, parse_verifier(found.scram))
    except UnfitVerifier:
        return False


user.add_command(import_command)
