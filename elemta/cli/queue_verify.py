"""The command `elemta queue verify`.

What is not here: how content is checked (`web.verify`, `queue.wholeness`), or what a store finds odd about itself.
"""

import json
from typing import Any

import click
from attrs import define, field

from elemta.cli.client import Api, ask, connect_option
from elemta.cli.invocation import Invocation
from elemta.cli.output import Column, ExitCode, Output, output_option, write_rows
from elemta.cli.progress import progress
from elemta.cli.queue_output import Row, mails, note, octets

#: Seconds to look over what lies beside the mails: the database's own check reads all of it.
LOOK_SECONDS = 3600.0

_COLUMNS = (Column("where", "WHERE"), Column("what", "WHAT"))


@define
class _Sum:
    checked: int = 0
    octets: int = 0
    without_digest: int = 0
    damaged: list[Row] = field(factory=list)
    findings: list[Row] = field(factory=list)

    def add(self, page: Row) -> None:
        self.checked += page["checked"]
        self.octets += page["octets"]
        self.without_digest += page["without_digest"]
        self.damaged += page["damaged"]

    @property
    def is_whole(self) -> bool:
        return not (self.damaged or self.findings)


@click.command()
@output_option
@connect_option
@click.pass_obj
def verify(invocation: Invocation, *, output: Output, connect: str | None) -> None:
    """Read every mail's content and compare it with what came in; look for what is odd in the store.

    It changes nothing, and may run beside the server. Ends with 1 when something was found.

    \b
    elemta queue verify
    elemta queue verify -o json | jq -r '.damaged[].id'
    """

    async def job(api: Api) -> ExitCode:
        found = await _look(api)
        _say(found, output)
        return ExitCode.OK if found.is_whole else ExitCode.FAILED

    click.get_current_context().exit(ask(invocation, connect, job))


async def _look(api: Api) -> _Sum:
    found = _Sum()
    stats = await api.get("/queue/stats")
    total = sum(stats[f"{name}_count"] for name in ("active", "deferred", "held", "failed", "delivered"))
    with progress("verifying", total) as tell:
        after = None
        while True:
            page = await api.get("/store/verify", {"after": after})
            found.add(page)
            tell(found.checked)
            after = page["next"]
            if after is None:
                break
    found.findings += (await api.get("/store/findings", seconds=LOOK_SECONDS))["findings"]
    return found


def _say(found: _Sum, output: Output) -> None:
    figures: dict[str, Any] = {
        "checked": found.checked,
        "octets": found.octets,
        "without_digest": found.without_digest,
    }
    match output:
        case Output.JSON:
            click.echo(json.dumps({"schema": 1, **figures, "damaged": found.damaged, "findings": found.findings}))
        case Output.JSONL:
            damaged = [{**row, "kind": "mail"} for row in found.damaged]
            findings = [{**row, "kind": "store"} for row in found.findings]
            write_rows([*damaged, *findings, {"kind": "summary", **figures}], (), output=output)
        case Output.TABLE:
            rows = [{"where": row["id"], "what": row["what"]} for row in found.damaged]
            if rows or found.findings:
                write_rows([*rows, *found.findings], _COLUMNS, output=output)
            _sum_up(found)


def _sum_up(found: _Sum) -> None:
    verdict = "all whole" if not found.damaged else f"{len(found.damaged)} damaged"
    odd = f", {len(found.findings)} odd in the store" if found.findings else ""
    click.echo(f"{mails(found.checked)}, {octets(found.octets)} read: {verdict}{odd}.")
    if found.without_digest:
        note(f"{found.without_digest} came in without a digest: of these only the size was compared.")
    if found.damaged:
        note("A damaged mail is not delivered. Look at it with `elemta queue cat ID`, then hold or delete it.")
