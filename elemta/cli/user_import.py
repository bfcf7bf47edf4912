"""The command `elemta user import`.

Users come from an htpasswd file, JSON or CSV, with their hashes as they are. What is not here: the forms
(`auth.user_documents`).
"""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click
from attrs import evolve, field, mutable

from elemta.cli.invocation import Invocation
from elemta.cli.output import CommandError, ExitCode, Output, output_option, write_record
from elemta.cli.progress import progress
from elemta.cli.queue_output import note
from elemta.cli.user_output import UNUSABLE, password_form
from elemta.cli.user_store import with_users

if TYPE_CHECKING:
    from elemta.auth.base import ManagedUsers, User
    from elemta.config.auth import AuthSection

#: Octets of what is imported: a million users.
MAX_OCTETS = 256 * 1024 * 1024
#: Names shown to a person.
SHOWN_NAMES = 10
_FORMS = ("htpasswd", "json", "csv")


@mutable
class _Tally:
    """What became of the users."""

    added: int = 0
    replaced: int = 0
    #: Those that were there already, and stay as they were.
    present: list[str] = field(factory=list)
    #: Those that came without a password that could be checked.
    unusable: list[str] = field(factory=list)


@click.command(name="import")
@click.argument("path", metavar="FILE")
@click.option("--form", type=click.Choice(_FORMS), help="The file's form; told by its beginning otherwise.")
@click.option("--replace", is_flag=True, help="Write over users that are there already.")
@output_option
@click.pass_obj
def import_command(invocation: Invocation, path: str, *, form: str | None, replace: bool, output: Output) -> None:
    """Add the users of an htpasswd file, of JSON, or of CSV; `-` is standard input.

    Hashes are kept as they are. A password in plain text is not taken over: its user is added, and may log in once
    `elemta user passwd` gave them one. Users that are there already stay as they are. The first line of CSV names the
    columns: username, password, and what else of email, full_name, is_active, is_admin, groups, senders there is.

    \b
    elemta user import /etc/apache2/htpasswd
    elemta user import users.csv --replace
    """
    found = _read(path, form)

    async def job(users: "ManagedUsers", _auth: "AuthSection") -> _Tally:
        return await _add_all(users, list(found.values()), replace=replace)

    tally = with_users(invocation, job)
    figures: Mapping[str, object] = {"added": tally.added, "replaced": tally.replaced}
    if output is Output.TABLE:
        write_record({**figures, "there already": len(tally.present)}, output=output)
        _say(tally.present, "were there already and stay as they were; --replace writes over them")
        _say(tally.unusable, "came without a usable password: give them one with `elemta user passwd`")
    else:
        write_record(
            {"schema": 1, **figures, "present": tally.present, "without_password": tally.unusable}, output=output
        )


def _say(names: Sequence[str], what: str) -> None:
    if names:
        more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        note(f"{', '.join(names[:SHOWN_NAMES])}{more} {what}.")


def _read(path: str, form: str | None) -> "dict[str, User]":
    from elemta.auth.user_documents import DocumentForm, UnfitDocument, form_to_import, parse

    try:
        if path == "-":
            octets = sys.stdin.buffer.read(MAX_OCTETS + 1)
        else:
            with open(path, "rb") as file:
                octets = file.read(MAX_OCTETS + 1)
        if len(octets) > MAX_OCTETS:
            raise CommandError(f"{path} has more than {MAX_OCTETS} octets.", ExitCode.USAGE)
        text = octets.decode("utf-8-sig")
        return parse(text, form_to_import(text) if form is None else DocumentForm(form))
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.", ExitCode.USAGE) from None
    except UnicodeDecodeError as error:
        raise CommandError(f"{path}: octet {error.start} is no UTF-8.", ExitCode.USAGE) from None
    except UnfitDocument as error:
        raise CommandError(f"{path}: {error}. Nothing was imported.", ExitCode.USAGE) from None


async def _add_all(users: "ManagedUsers", found: "list[User]", *, replace: bool) -> _Tally:
    tally = _Tally()
    fit = [_without_plain_text(user, tally) for user in found]
    with progress("importing", len(fit)) as tell:
        for start in range(0, len(fit), users.batch):
            some = fit[start : start + users.batch]
            present = set(await users.add_all(some))
            tally.added += len(some) - len(present)
            for user in (user for user in some if user.name in present):
                if replace:
                    await users.update(user)
                    tally.replaced += 1
                else:
                    tally.present.append(user.name)
            tell(start + len(some))
            sys.stdout.flush()
    return tally


def _without_plain_text(user: "User", tally: _Tally) -> "User":
    """A user without a password that is no hash: it is nothing to keep in a database."""
    if password_form(user.password) != UNUSABLE:
        return user
    tally.unusable.append(user.name)
    return evolve(user, password="")
