"""The command group `elemta queue`, with those of its commands that look: list, show, cat, stats.

What is not here: the orders retry, hold, release, delete (`cli.queue_orders`), what looks at or moves the whole queue
(`cli.queue_verify`, `cli.queue_transfer`); how a queue is reached (`cli.client`).
"""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from elemta.cli.client import Api, ask, connect_option
from elemta.cli.invocation import Invocation
from elemta.cli.output import Column, CommandError, Output, write_record, write_rows
from elemta.cli.queue_orders import ORDERS
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
    note,
    octets,
    write_document,
)
from elemta.cli.queue_select import PAGE_MAILS, Selection, may_be_id, no_id, selection_options
from elemta.cli.queue_transfer import TRANSFERS
from elemta.cli.queue_verify import verify
from elemta.runtime.clock import SystemClock

_Command = TypeVar("_Command", bound=Callable[..., Any])

_LIST = (
    Column("id", "ID"),
    Column("state", "STATE"),
    Column("age", "AGE", right=True),
    Column("size", "SIZE", right=True),
    Column("sender", "SENDER"),
    Column("recipients", "RECIPIENTS"),
    Column("next", "NEXT TRY", right=True),
    Column("why", "WHY"),
)
_RECIPIENTS = (Column("address", "RECIPIENT"), Column("status", "STATUS"), Column("reply", "LAST REPLY"))
_ANNOTATIONS = (Column("key", "ANNOTATION"), Column("value", "VALUE"))
_PLUGINS = (
    Column("name", "PLUGIN"),
    Column("ms", "MS", right=True),
    Column("verdict", "VERDICT"),
    Column("changes", "CHANGES", right=True),
    Column("score", "SCORE", right=True),
)
_ATTEMPTS = (
    Column("time", "TIME"),
    Column("recipient", "RECIPIENT"),
    Column("result", "RESULT"),
    Column("host", "HOST"),
    Column("address", "ADDRESS"),
    Column("seconds", "SECONDS", right=True),
    Column("reply", "REPLY"),
)


class _Group(click.Group):
    """Knows the original's name of `show` without listing it twice."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name or an alias."""
        return super().get_command(ctx, "show" if cmd_name == "view" else cmd_name)


@click.group(cls=_Group)
def queue() -> None:
    """Look after the queue, of a running server or of a stopped one.

    \b
    elemta queue list --state deferred
    elemta queue show ID                            recipients, attempts, why it waits
    elemta queue retry --recipient @example.com
    elemta queue list -o ids | elemta queue hold -
    """


for _command in (*ORDERS, verify, *TRANSFERS):
    queue.add_command(_command)


@queue.command(name="list")
@selection_options
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N mails.")
@click.option("--all", "every", is_flag=True, help=f"Every mail: a table shows the first {TABLE_ROWS} otherwise.")
@form_option
@connect_option
@click.pass_obj
def list_command(
    invocation: Invocation,
    selection: Selection,
    *,
    limit: int | None,
    every: bool,
    form: Form,
    connect: str | None,
) -> None:
    """List mails, the oldest first.

    \b
    elemta queue list
    elemta queue list --state held --sender @example.com
    elemta queue list -o jsonl | jq -r 'select(.size > 1000000) | .id'
    """
    most = limit or (TABLE_ROWS if form is Form.TABLE and not every else None)
    now = SystemClock().wall()

    async def job(api: Api) -> None:
        listing = Listing(form, _LIST, lambda mail: _cells(mail, now))
        left, after = most, None
        while True:
            wanted = PAGE_MAILS if left is None else min(PAGE_MAILS, left)
            page = await api.get("/queue", {**selection.query(), "limit": wanted, "after": after})
            listing.add(page["mails"])
            after = page["next"]
            left = None if left is None else left - len(page["mails"])
            if after is None or left == 0:
                break
        listing.end()
        if after is not None and form is Form.TABLE:
            note(f"These are the first {most}; --all shows every one, --limit N more.")

    ask(invocation, connect, job)


def _cells(mail: Row, now: float) -> Row:
    return {
        "id": mail["id"],
        "state": mail["state"],
        "age": age(mail["received_at"], now),
        "size": octets(mail["size"]),
        "sender": mail["sender"] or "<>",
        "recipients": first_of([recipient["address"] for recipient in mail["recipients"]]),
        "next": age(mail["next_attempt_at"], now),
        "why": mail["summary"],
    }


@queue.command()
@click.argument("queue_id", metavar="ID")
@form_option
@connect_option
@click.pass_obj
def show(invocation: Invocation, queue_id: str, *, form: Form, connect: str | None) -> None:
    """Show one mail: its recipients, every attempt, why it waits, what plugins said of it and cost it.

    A mail that left the queue shows its attempts for as long as they are kept.

    \b
    elemta queue show 0VgmOYqXDXjGKqcL2cd65r
    elemta queue show 0VgmOYqXDXjGKqcL2cd65r -o json | jq .why
    """
    path = mail_path(queue_id)

    async def job(api: Api) -> None:
        mail = await api.get(path)
        if form is Form.TABLE:
            _show(mail, SystemClock().wall())
        else:
            write_document(mail, form=form)

    ask(invocation, connect, job)


def mail_path(queue_id: str, room: str = "queue") -> str:
    """The page of a mail, for what is an id or a part of one: no other page can be reached. Raises `CommandError`."""
    if not may_be_id(queue_id):
        raise CommandError(no_id(queue_id))
    return f"/{room}/{queue_id}"


def _show(mail: Row, now: float) -> None:
    if mail["state"] != "gone":
        write_record(_facts(mail, now), output=Output.TABLE)
        click.echo()
        write_rows(mail["recipients"], _RECIPIENTS, output=Output.TABLE)
        _show_plugins(mail)
    else:
        note(f"{mail['id']} has left the queue; what is known of it are its attempts.")
    if mail["attempts"]:
        click.echo()
        write_rows([_attempt(each) for each in mail["attempts"]], _ATTEMPTS, output=Output.TABLE)
    if mail["attempts_left_out"]:
        note(f"{mail['attempts_left_out']} earlier attempts are left out.")
    for reason in mail.get("why", ()):
        click.echo()
        write_record(_reason(reason, now), output=Output.TABLE)


def _show_plugins(mail: Row) -> None:
    """What plugins said about the mail, and what they cost it."""
    costs = mail.get("plugins", ())
    words = {key: value for key, value in mail.get("annotations", {}).items() if key != "plugins"}
    if words:
        click.echo()
        write_rows([{"key": key, "value": value} for key, value in words.items()], _ANNOTATIONS, output=Output.TABLE)
    if costs:
        click.echo()
        write_rows([{**one, "ms": f"{one['ms']:.2f}"} for one in costs], _PLUGINS, output=Output.TABLE)


def _facts(mail: Row, now: float) -> dict[str, object]:
    facts: dict[str, object] = {
        "id": mail["id"],
        "state": mail["state"],
        "sender": mail["sender"] or "<>",
        "destination": mail["destination"],
        "priority": mail["priority"],
        "size": mail["size"],
        "received": f"{full_time(mail['received_at'])} ({age(mail['received_at'], now)} ago)",
        "from": " ".join(filter(None, (mail["origin"]["client"], mail["origin"]["helo"], mail["origin"]["protocol"]))),
        "next attempt": f"{full_time(mail['next_attempt_at'])} ({age(mail['next_attempt_at'], now)})",
        "expires": f"{full_time(mail['expires_at'])} ({age(mail['expires_at'], now)})",
        "attempts": mail["attempt_count"],
    }
    if mail["origin_id"] != mail["id"]:
        facts["accepted as"] = mail["origin_id"]
    if mail["reason"]:
        facts["reason"] = mail["reason"]
    if mail["next_attempt_at"] is None:
        del facts["next attempt"]
    return facts


def _attempt(attempt: Row) -> Row:
    return {**attempt, "time": full_time(attempt["time"]), "seconds": f"{attempt['duration']:.2f}"}


def _reason(reason: Row, now: float) -> dict[str, object]:
    """Why one recipient waits; members that say nothing are left out."""
    told = {
        "waits": reason["recipient"],
        "why": reason["text"],
        "since": reason["since"] and f"{full_time(reason['since'])} ({age(reason['since'], now)} ago)",
        "until": reason["until"] and f"{full_time(reason['until'])} ({age(reason['until'], now)})",
        "to change it": reason["hint"],
    }
    return {name: text for name, text in told.items() if text}


@queue.command()
@click.argument("queue_id", metavar="ID")
@connect_option
@click.pass_obj
def cat(invocation: Invocation, queue_id: str, *, connect: str | None) -> None:
    """Print a mail as it is queued: what was received, with our trace fields.

    On a terminal control characters are shown as escapes; a pipe or file gets the octets.

    \b
    elemta queue cat 0VgmOYqXDXjGKqcL2cd65r > mail.eml
    """
    path = f"{mail_path(queue_id)}/raw"

    async def job(api: Api) -> None:
        out = Octets()
        await api.content(path, out.write)
        out.end()

    ask(invocation, connect, job)


@queue.command()
@form_option
@connect_option
@click.pass_obj
def stats(invocation: Invocation, *, form: Form, connect: str | None) -> None:
    """Print how many mails stand in each state, with the totals since the server's start.

    \b
    elemta queue stats
    elemta queue stats -o json | jq .deferred_count
    """

    async def job(api: Api) -> None:
        found = await api.get("/queue/stats")
        if form is Form.TABLE:
            write_record(_figures(found), output=Output.TABLE)
        else:
            write_document(found, form=Form.JSON if form is Form.IDS else form)

    ask(invocation, connect, job)


def _figures(found: Row) -> dict[str, object]:
    figures: dict[str, object] = {
        name: found[f"{name}_count"] for name in ("active", "deferred", "held", "failed", "delivered")
    }
    if found["total_processed"] is None:
        return figures
    return figures | {
        "accepted since the start": found["total_processed"],
        "recipients delivered": found["total_delivered"],
        "recipients given up": found["total_failed"],
    }
