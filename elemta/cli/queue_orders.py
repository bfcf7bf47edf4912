"""The commands `elemta queue retry | hold | release | delete`.

What is not here: what an order does to a mail (`storage.rules`). Many mails are ordered in batches; what the batches
did is added up.
"""

import itertools
import json
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import click
from attrs import define, evolve, field, frozen

from elemta.cli.client import Api, Refused, ask, connect_option
from elemta.cli.invocation import Invocation
from elemta.cli.output import CommandError, ExitCode
from elemta.cli.queue_output import Form, Row, first_of, form_option, mails, note
from elemta.cli.queue_select import Selection, has_form_of_id, may_be_id, no_id, read_ids, selection_options

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: Ids in one request; the server's most.
BATCH_IDS = 250
#: Ids named in a message: a person reads no more.
NAMED_IDS = 5

#: Mails shown before they are deleted.
SAMPLES = 3

#: What became of a mail, by the action.
_DONE = {"retry": "due now", "hold": "held", "release": "released", "delete": "deleted"}


@frozen
class Wanted:
    """An order as the command line gives it."""

    action: str
    #: None where a filter or `every` says which.
    ids: tuple[str, ...] | None
    selection: Selection
    every: bool
    reason: str = ""
    #: Only mails received up to then: what was there when the count was shown.
    received_before: str | None = None

    def body(self) -> dict[str, Any]:
        """The members of a request, but for ids and cursor."""
        criteria = self.selection.criteria()
        if self.received_before is not None:
            criteria["received_before"] = self.received_before
        body: dict[str, Any] = {"action": self.action, "filter": criteria}
        if self.every:
            body["all"] = True
        if self.reason:
            body["reason"] = self.reason
        return body


@define
class Sum:
    """What all batches did, or would do."""

    changed: list[str] = field(factory=list)
    in_flight: list[str] = field(factory=list)
    skipped: list[Row] = field(factory=list)
    unknown: list[str] = field(factory=list)
    samples: list[Row] = field(factory=list)
    #: The server's time at the first batch.
    now: str | None = None

    def add(self, answer: Row) -> None:
        """Add one batch."""
        self.changed += answer["changed"]
        self.in_flight += answer["in_flight"]
        self.skipped += answer["skipped"]
        self.unknown += answer["unknown"]
        self.samples = [*self.samples, *answer.get("samples", ())][:SAMPLES]
        self.now = self.now or answer["now"]

    def exit_code(self) -> ExitCode:
        """1 when a mail could not be taken, 75 when one can be later, else 0."""
        if self.unknown or any(not each["already"] for each in self.skipped):
            return ExitCode.FAILED
        return ExitCode.TEMPORARY if self.in_flight else ExitCode.OK


def _order_options(command: _Command) -> _Command:
    decorators = (
        click.argument("ids", nargs=-1, metavar="[ID|-]..."),
        selection_options,
        click.option("--all", "every", is_flag=True, help="Every mail that this can be done to."),
        click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
        form_option,
        connect_option,
        click.pass_obj,
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


@click.command()
@_order_options
def retry(invocation: Invocation, ids: Sequence[str], *, form: Form, dry_run: bool, **options: Any) -> None:
    """Try mails now, whatever their schedule says; failed ones get another chance.

    \b
    elemta queue retry 0VgmOYqXDXjGKqcL2cd65r
    elemta queue retry --recipient @example.com
    elemta queue retry --all
    """
    wanted, connect = _wanted("retry", ids, options)
    _carry_out(invocation, connect, wanted, form=form, dry_run=dry_run)


@click.command()
@click.option("--reason", default="", metavar="TEXT", help="Why; shown with the mails.")
@_order_options
def hold(invocation: Invocation, ids: Sequence[str], *, form: Form, dry_run: bool, **options: Any) -> None:
    """Keep mails in the queue without trying them, until they are released.

    \b
    elemta queue hold --sender newsletter@example.com --reason "asked Mary about it"
    """
    wanted, connect = _wanted("hold", ids, options)
    _carry_out(invocation, connect, wanted, form=form, dry_run=dry_run)


@click.command()
@_order_options
def release(invocation: Invocation, ids: Sequence[str], *, form: Form, dry_run: bool, **options: Any) -> None:
    """Let held mails go: they are tried now.

    \b
    elemta queue release 0VgmOYqXDXjGKqcL2cd65r
    elemta queue release --all
    """
    wanted, connect = _wanted("release", ids, options)
    _carry_out(invocation, connect, wanted, form=form, dry_run=dry_run)


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@_order_options
def delete(invocation: Invocation, ids: Sequence[str], *, form: Form, dry_run: bool, yes: bool, **options: Any) -> None:
    """Delete mails for good. No bounce is sent: their senders are not told.

    Asks first; where nobody can be asked, --yes must be given.

    \b
    elemta queue delete 0VgmOYqXDXjGKqcL2cd65r
    elemta queue delete --state failed --yes
    elemta queue list --sender '<>' -o ids | elemta queue delete - --yes
    """
    wanted, connect = _wanted("delete", ids, options)
    if not yes and not dry_run:
        must_ask("deleting")
    _carry_out(invocation, connect, wanted, form=form, dry_run=dry_run, confirm=not yes)


ORDERS = (retry, hold, release, delete)


def must_ask(doing: str) -> None:
    """Refuse to go on where nobody can be asked. Raises `CommandError`."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CommandError(f"{doing} needs --yes where nobody can be asked.", ExitCode.USAGE)


def _wanted(action: str, ids: Sequence[str], options: dict[str, Any]) -> tuple[Wanted, str | None]:
    """The order, and where to. Which mails are meant must be said in one way."""
    selection, every = options["selection"], options["every"]
    ways = (bool(ids), selection.narrows, every)
    if sum(ways) != 1:
        which = "Say which mails" if not any(ways) else "Say in one way which mails"
        raise CommandError(f"{which}: by their ids, by filters such as --recipient, or with --all.", ExitCode.USAGE)
    found = tuple(dict.fromkeys(read_ids(ids))) if ids else None
    return Wanted(action, found, selection, every, options.get("reason", "")), options["connect"]


def _carry_out(
    invocation: Invocation, connect: str | None, wanted: Wanted, *, form: Form, dry_run: bool, confirm: bool = False
) -> None:
    async def job(api: Api) -> ExitCode:
        order = wanted
        if confirm and not dry_run:
            seen = await _add_up(api, wanted, dry_run=True)
            if not _confirmed(seen):
                note("Nothing was deleted.")
                return ExitCode.FAILED
            if wanted.ids is None:
                order = evolve(wanted, received_before=seen.now)
        total = await _add_up(api, order, dry_run=dry_run)
        _say(order, total, form=form, dry_run=dry_run)
        await _explain(api, total)
        return total.exit_code()

    code = ask(invocation, connect, job)
    click.get_current_context().exit(code)


async def _add_up(api: Api, wanted: Wanted, *, dry_run: bool) -> Sum:
    total = Sum()
    total.unknown += [each for each in wanted.ids or () if not has_form_of_id(each)]
    async with aclosing(_answers(api, wanted, dry_run=dry_run)) as answers:
        async for answer in answers:
            total.add(answer)
    return total


async def _answers(api: Api, wanted: Wanted, *, dry_run: bool) -> AsyncGenerator[Row, None]:
    """One request after the other; an order by a filter goes on from the cursor of the one before."""
    body = {**wanted.body(), "dry_run": dry_run}
    if wanted.ids is not None:
        for batch in _batches(filter(has_form_of_id, wanted.ids)):
            yield await api.post("/queue/actions", {**body, "ids": batch})
        return
    after = ""
    while True:
        answer = await api.post("/queue/actions", {**body, "after": after})
        yield answer
        if answer["next"] is None:
            return
        after = answer["next"]


def _batches(ids: Iterable[str]) -> Iterable[list[str]]:
    rest = iter(ids)
    return iter(lambda: list(itertools.islice(rest, BATCH_IDS)), [])


def _confirmed(seen: Sum) -> bool:
    """Ask a person, with what it is about."""
    if not seen.changed:
        return True
    for mail in seen.samples:
        note(f"  {_sample(mail)}")
    if len(seen.changed) > len(seen.samples):
        note(f"  … and {len(seen.changed) - len(seen.samples)} more")
    question = f"Delete {mails(len(seen.changed))}? No bounce is sent: the senders are not told."
    return click.confirm(question, err=True)


def _sample(mail: Row) -> str:
    to = first_of([recipient["address"] for recipient in mail["recipients"]])
    return f"{mail['id']}  {mail['state']}  {mail['sender'] or '<>'} → {to}"


def _say(wanted: Wanted, total: Sum, *, form: Form, dry_run: bool) -> None:
    """Print what was done, in the form that was asked for."""
    match form:
        case Form.TABLE:
            _say_to_people(wanted, total, dry_run)
        case Form.IDS:
            if total.changed:
                click.echo("\n".join(total.changed))
        case Form.JSON:
            document = {
                "schema": 1,
                "action": wanted.action,
                "dry_run": dry_run,
                "changed": total.changed,
                "in_flight": total.in_flight,
                "skipped": total.skipped,
                "unknown": total.unknown,
            }
            click.echo(json.dumps(document))
        case Form.JSONL:
            for name in ("changed", "in_flight", "unknown"):
                for each in getattr(total, name):
                    click.echo(json.dumps({"id": each, "result": name}))
            for row in total.skipped:
                click.echo(json.dumps({**row, "result": "skipped"}))


def _say_to_people(wanted: Wanted, total: Sum, dry_run: bool) -> None:
    done = _DONE[wanted.action]
    tail = " No bounce is sent." if wanted.action == "delete" and total.changed else ""
    if dry_run:
        click.echo(f"{mails(len(total.changed))} would be {done}.{tail}")
        for mail in total.samples:
            note(f"  {_sample(mail)}")
        return
    click.echo(f"{mails(len(total.changed))} {'is' if len(total.changed) == 1 else 'are'} {done}.{tail}")


async def _explain(api: Api, total: Sum) -> None:
    """Say of the mails that were left alone why."""
    for each in total.unknown[:NAMED_IDS]:
        note(await _unknown(api, each))
    _rest(len(total.unknown), "ids are unknown")
    for row in total.skipped[:NAMED_IDS]:
        note(f"{row['id']} is {row['state']}{' already' if row['already'] else ''}: left alone.")
    _rest(len(total.skipped), "mails were left alone")
    if total.in_flight:
        named = ", ".join(total.in_flight[:NAMED_IDS])
        note(f"{mails(len(total.in_flight))} being delivered just now, left alone; try again: {named}")


def _rest(count: int, what: str) -> None:
    if count > NAMED_IDS:
        note(f"{count - NAMED_IDS} more {what}.")


async def _unknown(api: Api, queue_id: str) -> str:
    """What the server says of an id that it does not know: perhaps a nearest one."""
    if not may_be_id(queue_id):
        return no_id(queue_id)
    try:
        await api.get(f"/queue/{queue_id}")
    except Refused as refused:
        return f"{refused.message}."
    return f"{queue_id} has left the queue."
