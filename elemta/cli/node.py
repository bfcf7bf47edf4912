"""The command group `elemta node`: the nodes that share one queue.

What is not here: what a node does when it is told to drain (`queue.membership`).
"""

import difflib

import click

from elemta.cli.client import Api, ask, connect_option
from elemta.cli.invocation import Invocation
from elemta.cli.output import Column, CommandError, ExitCode, Output, output_option, write_rows
from elemta.cli.queue_output import Row, note, span

_COLUMNS = (
    Column("name", "NODE"),
    Column("state", "STATE"),
    Column("lease", "LEASE", right=True),
    Column("mails", "MAILS", right=True),
)


@click.group()
def node() -> None:
    """See the nodes that share this queue, let one of them rest.

    \b
    elemta node list
    elemta node drain mx1.example.com           it finishes what it has, the others take over
    elemta node drain mx1.example.com --undo
    """


@node.command(name="list")
@output_option
@connect_option
@click.pass_obj
def list_command(invocation: Invocation, *, output: Output, connect: str | None) -> None:
    """List the nodes with their lease, whether they drain, and how many mails each has in hand.

    A node is `silent` when its lease is past: another one takes over its mails.

    \b
    elemta node list
    elemta node list -o json | jq -r '.[] | select(.alive | not) | .name'
    """

    async def job(api: Api) -> None:
        found = await api.get("/nodes")
        rows = found["nodes"] if output is not Output.TABLE else [_cells(row) for row in found["nodes"]]
        if found["shared"] or output is not Output.TABLE:
            write_rows(rows, _COLUMNS, output=output)
        if not found["shared"]:
            note(_one_node(found))

    ask(invocation, connect, job)


@node.command()
@click.argument("name", metavar="NAME")
@click.option("--undo", is_flag=True, help="Let it take part again.")
@output_option
@connect_option
@click.pass_obj
def drain(invocation: Invocation, name: str, *, undo: bool, output: Output, connect: str | None) -> None:
    """Ask a node to finish the deliveries it has, and to begin no more; the other nodes go on with its mails.

    NAME may be the beginning of a name, when no other node's begins so. A node with several worker processes drains
    in all of them.

    \b
    elemta node drain mx1
    elemta node drain mx1 --undo
    """

    async def job(api: Api) -> None:
        found = await api.get("/nodes")
        if not found["shared"]:
            raise CommandError(_one_node(found))
        answers = []
        for chosen in _chosen(name, [row["name"] for row in found["nodes"]]):
            order = {"action": "undrain" if undo else "drain", "name": chosen}
            answers.append(await api.post("/nodes/actions", order))
        if output is not Output.TABLE:
            write_rows(answers, (), output=output)
            return
        for answer in answers:
            click.echo(f"{answer['name']} {'takes part again' if undo else 'drains: it begins no delivery any more'}.")

    ask(invocation, connect, job)


def _one_node(found: Row) -> str:
    return (
        f"this queue is not shared: its one node is {found['hostname']}. "
        'Many nodes need a storage.type of "postgresql" or "mysql".'
    )


def _cells(row: Row) -> Row:
    left = row["lease_left"]
    state = "draining" if row["draining"] else "active"
    return {
        **row,
        "state": state if row["alive"] else "silent",
        "lease": span(left) if row["alive"] else f"{span(-left)} ago",
    }


def _chosen(wanted: str, names: list[str]) -> list[str]:
    """The node that a name, or the beginning of one, means, with all its worker processes. Raises `CommandError`."""
    if wanted in names:
        return [wanted]
    begin = [name for name in names if wanted and name.startswith(wanted)]
    # `name/2` is the second worker process of the node `name`.
    nodes = dict.fromkeys(name.partition("/")[0] for name in begin)
    if len(nodes) == 1:
        return begin
    if begin:
        raise CommandError(f'"{wanted}" may be each of {", ".join(nodes)}: write more of the name.', ExitCode.USAGE)
    # People think of a host, or of its first label, and not of the characters that tell it from another.
    known = {short: name for name in names for short in (name.partition(".")[0], name.partition("~")[0], name)}
    near = difflib.get_close_matches(wanted, known, n=1)
    hint = f' Did you mean "{known[near[0]]}"?' if near else " See `elemta node list`."
    raise CommandError(f'there is no node "{wanted}".{hint}')
