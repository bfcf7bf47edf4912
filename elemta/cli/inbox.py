"""The commands `elemta inbox list | show | wait | raw | clear`.

What is not here: how the inbox is reached (`cli.client`), or what it keeps (`storage.inbox`).
"""

from typing import TYPE_CHECKING

import click

from elemta.cli.client import Api, Refused, ask, connect_option
from elemta.cli.invocation import Invocation
from elemta.cli.output import Column, CommandError, ExitCode, Output, write_record
from elemta.cli.queue import mail_path
from elemta.cli.queue_orders import must_ask
from elemta.cli.queue_output import (
    TABLE_ROWS,
    Form,
    Listing,
    Octets,
    Row,
    age,
    first_of,
    form_option,
    full_time,
    mails,
    note,
    octets,
    on_terminal,
    write_document,
)
from elemta.cli.queue_select import PAGE_MAILS
from elemta.runtime.clock import SystemClock

if TYPE_CHECKING:
    from email.message import EmailMessage

_LIST = (
    Column("id", "ID"),
    Column("age", "AGE", right=True),
    Column("reverse_path", "FROM"),
    Column("forward_paths", "TO"),
    Column("size", "SIZE", right=True),
    Column("subject", "SUBJECT"),
)

#: Octets of a mail that `show` reads for its text; `raw` gives the rest.
SHOWN_OCTETS = 1024 * 1024
#: Seconds of one request that waits; the server's most.
WAIT_SECONDS = 60
#: Seconds beyond the wait for the answer to arrive.
MARGIN_SECONDS = 10.0


@click.group()
def inbox() -> None:
    """Read the mails that dev mode caught.

    \b
    elemta inbox list
    elemta inbox wait --to you@example.com --subject welcome
    elemta inbox raw ID > mail.eml
    """


@inbox.command(name="list")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N mails.")
@click.option("--all", "every", is_flag=True, help=f"Every mail: a table shows the newest {TABLE_ROWS} otherwise.")
@form_option
@connect_option
@click.pass_obj
def list_command(invocation: Invocation, *, limit: int | None, every: bool, form: Form, connect: str | None) -> None:
    """List the mails, the newest first.

    \b
    elemta inbox list
    elemta inbox list -o json | jq '.[0].subject'
    """
    most = limit or (TABLE_ROWS if form is Form.TABLE and not every else None)
    now = SystemClock().wall()

    async def job(api: Api) -> None:
        listing = Listing(form, _LIST, lambda mail: _cells(mail, now))
        left, before = most, None
        while True:
            wanted = PAGE_MAILS if left is None else min(PAGE_MAILS, left)
            page = await api.get("/inbox", {"limit": wanted, "before": before})
            listing.add(page["mails"])
            before = page["next"]
            left = None if left is None else left - len(page["mails"])
            if before is None or left == 0:
                break
        listing.end()
        if before is not None and form is Form.TABLE:
            note(f"These are the newest {most}; --all shows every one, --limit N more.")

    ask(invocation, connect, job, room="inbox")


def _cells(mail: Row, now: float) -> Row:
    return {
        "id": mail["id"],
        "age": age(mail["received_at"], now),
        "reverse_path": mail["reverse_path"] or "<>",
        "forward_paths": first_of(mail["forward_paths"]),
        "size": octets(mail["size"]),
        "subject": mail["subject"],
    }


@inbox.command()
@click.argument("queue_id", metavar="ID")
@form_option
@connect_option
@click.pass_obj
def show(invocation: Invocation, queue_id: str, *, form: Form, connect: str | None) -> None:
    """Show one mail: its envelope, its main fields, its text.

    \b
    elemta inbox show 0VgmOYqXDXjGKqcL2cd65r
    """
    path = mail_path(queue_id, "inbox")

    async def job(api: Api) -> None:
        mail = await api.get(path)
        if form is not Form.TABLE:
            write_document(mail, form=form)
            return
        _show_envelope(mail)
        content = bytearray()
        size = await api.content(f"{path}/raw", content.extend, SHOWN_OCTETS)
        click.echo(f"\n{_text_of(bytes(content))}")
        if size > SHOWN_OCTETS:
            note(f"This is the beginning of {size} octets; `elemta inbox raw {queue_id}` prints all.")

    ask(invocation, connect, job, room="inbox")


def _show_envelope(mail: Row) -> None:
    facts = {
        "id": mail["id"],
        "received": full_time(mail["received_at"]),
        "reverse-path": mail["reverse_path"] or "<>",
        "forward-paths": ", ".join(mail["forward_paths"]),
        "size": mail["size"],
    }
    write_record(facts, output=Output.TABLE)


def _text_of(content: bytes) -> str:
    """A mail's main fields with its text for a terminal; what cannot be taken apart is shown as it came."""
    import email
    from email import policy

    try:
        message = email.message_from_bytes(content, policy=policy.default)
        return on_terminal(_readable(message))
    except Exception:
        # The parser fails on contrived mails with almost any exception; they are for looking at, not for failing.
        return on_terminal(content.decode("utf-8", "backslashreplace"))


def _readable(message: "EmailMessage") -> str:
    fields = [f"{name}: {message[name]}" for name in ("From", "To", "Cc", "Subject", "Date") if message[name]]
    body = message.get_body(("plain", "html"))
    text = "" if body is None else str(body.get_content()).replace("\r\n", "\n")
    attached = [part.get_filename() or part.get_content_type() for part in message.iter_attachments()]
    end = [f"[attached: {', '.join(attached)}]"] if attached else []
    return "\n".join([*fields, "", text.rstrip("\n"), *end])


@inbox.command()
@click.option("--to", metavar="ADDRESS|@DOMAIN", help="A mail to this address or domain.")
@click.option(
    "--from", "sender", metavar="ADDRESS|@DOMAIN", help="A mail from this address or domain; <> for a bounce."
)
@click.option("--subject", metavar="TEXT", help="A mail whose subject has this in it; case does not matter.")
@click.option("--after", metavar="ID", help="A mail that arrived after this one.")
@click.option("--timeout", type=click.IntRange(1), default=10, show_default=True, metavar="SECONDS", help="How long.")
@form_option
@connect_option
@click.pass_obj
def wait(invocation: Invocation, /, *, timeout: int, form: Form, connect: str | None, **wanted: str | None) -> None:
    """Wait for a mail, and print it. One that is there already counts.

    Exits with 0 when there is one, with 1 when none came in time.

    \b
    elemta inbox wait --to you@example.com --subject welcome --timeout 30
    elemta inbox wait --to you@example.com -o ids | xargs elemta inbox raw
    """
    asked = {"to": wanted["to"], "from": wanted["sender"], "subject": wanted["subject"], "after": wanted["after"]}

    async def job(api: Api) -> None:
        mail = await _wait(api, asked, timeout)
        if form is Form.TABLE:
            _show_envelope(mail)
            click.echo(f"subject: {on_terminal(mail['subject'])}")
        else:
            write_document(mail, form=form)

    ask(invocation, connect, job, room="inbox")


async def _wait(api: Api, asked: dict[str, str | None], most: int) -> Row:
    """Ask again until the time is over: the server ends each request after a while. Raises `CommandError`."""
    left = most if api.running else 1
    while True:
        seconds = min(left, WAIT_SECONDS)
        left -= seconds
        try:
            return await api.get("/inbox/wait", {**asked, "timeout": seconds}, seconds=seconds + MARGIN_SECONDS)
        except Refused as refused:
            if refused.code != "no-mail-came":
                raise
        if not api.running:
            raise CommandError("no such mail is there, and no server is running.", ExitCode.UNREACHABLE)
        if left == 0:
            raise CommandError(f"no such mail came in {most} seconds.")


@inbox.command()
@click.argument("queue_id", metavar="ID")
@connect_option
@click.pass_obj
def raw(invocation: Invocation, queue_id: str, *, connect: str | None) -> None:
    """Print a mail's octets as they came.

    On a terminal control characters are shown as escapes; a pipe or file gets the octets.

    \b
    elemta inbox raw 0VgmOYqXDXjGKqcL2cd65r > mail.eml
    """
    path = f"{mail_path(queue_id, 'inbox')}/raw"

    async def job(api: Api) -> None:
        out = Octets()
        await api.content(path, out.write)
        out.end()

    ask(invocation, connect, job, room="inbox")


@inbox.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@connect_option
@click.pass_obj
def clear(invocation: Invocation, *, yes: bool, connect: str | None) -> None:
    """Remove every mail from the inbox.

    Asks first; where nobody can be asked, --yes must be given.
    """
    if not yes:
        must_ask("clearing the inbox")

    async def job(api: Api) -> ExitCode:
        if not yes and not await _confirmed(api):
            note("Nothing was removed.")
            return ExitCode.FAILED
        gone = await api.delete("/inbox", {"all": "true"})
        click.echo(f"{mails(gone['deleted'])} removed.")
        return ExitCode.OK

    code = ask(invocation, connect, job, room="inbox")
    click.get_current_context().exit(code)


async def _confirmed(api: Api) -> bool:
    page = await api.get("/inbox", {"limit": PAGE_MAILS})
    found = page["mails"]
    for mail in found[:3]:
        note(f"  {mail['id']}  {mail['reverse_path'] or '<>'} → {first_of(mail['forward_paths'])}  {mail['subject']}")
    count = f"more than {mails(len(found))}" if page["next"] else mails(len(found))
    return click.confirm(f"Remove {count}?", err=True)
