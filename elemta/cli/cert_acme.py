"""`elemta cert renew` with `elemta cert why`: certificates by ACME, by hand.

Both work beside a server that runs: answers to http-01 lie in `cache_dir`, where the server finds them; what is ordered
lies there as well, and the server sees it within seconds. What is not here: ordering (`tls.acme`), or the group itself
(`cli.cert`). The supervisor and the ACME libraries are imported when a command runs.
"""

import errno
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import click

from elemta.cli.invocation import Invocation
from elemta.cli.output import Column, CommandError, ExitCode, Output, output_option, write_record, write_rows

if TYPE_CHECKING:
    from elemta.config.sections import Config
    from elemta.supervisor.acme import Office
    from elemta.tls.acme.http01 import Responder
    from elemta.tls.acme.keys import Pair

_T = TypeVar("_T")

_COLUMNS = (Column("subject", "what"), Column("state", "state"), Column("says", "found"), Column("mend", "to mend it"))


@click.command(name="renew")
@click.option("--force", is_flag=True, help="Order a certificate even when the present one is young.")
@click.option("--dry-run", is_flag=True, help="Order one of Let's Encrypt's staging service, and keep nothing of it.")
@output_option
@click.pass_obj
def renew(invocation: Invocation, *, force: bool, dry_run: bool, output: Output) -> None:
    """Order a certificate by ACME now; a server that runs serves it within seconds.

    \b
    elemta cert renew              order one if it is due
    elemta cert renew --dry-run    see whether an order would succeed
    """
    import trio

    config = _config(invocation)
    trio.run(_renew, config, force or dry_run, dry_run, output)


@click.command(name="why")
@output_option
@click.pass_context
def why(context: click.Context, *, output: Output) -> None:
    """Say what is missing for a certificate by ACME, each thing with how to mend it.

    Looks at the clock, the authority, the account, each domain's addresses, CAA records, the way to port 80 or the DNS
    update. Nothing is ordered. Ends with 1 when something is wrong.
    """
    import trio

    rows: list[dict[str, object]] = trio.run(_why, _config(context.find_object(Invocation) or Invocation()))
    write_rows(rows, _COLUMNS, output=output)
    if any(row["state"] == "wrong" for row in rows):
        context.exit(ExitCode.FAILED)


def _config(invocation: Invocation) -> "Config":
    loaded = invocation.load()
    for warning in loaded.warnings:
        click.echo(f"elemta: warning: {warning}", err=True)
    if not loaded.config.tls.lets_encrypt.enabled:
        raise CommandError(
            "tls.lets_encrypt.enabled is false: certificates are files of your own, which `elemta cert show` shows. "
            "Set it to true to have them ordered by ACME.",
            ExitCode.CONFIG,
        )
    return loaded.config


def _open(config: "Config", *, dry_run: bool) -> "Office":
    from attrs import evolve

    from elemta.observe.log import make_logger
    from elemta.resolver.dns import DnsResolver
    from elemta.runtime.world import system_runtime
    from elemta.supervisor.acme import open_office, terms_of
    from elemta.supervisor.failures import CannotStart
    from elemta.tls.acme.directories import LETS_ENCRYPT, LETS_ENCRYPT_STAGING

    terms = terms_of(config)
    if dry_run:
        url = LETS_ENCRYPT_STAGING if terms.directory_url == LETS_ENCRYPT else terms.directory_url
        terms = evolve(terms, directory_url=url, keeps=False)
    runtime = system_runtime()
    log = make_logger("warning", "auto")
    try:
        return open_office(config, terms, runtime=runtime, resolver=DnsResolver(runtime.threads), log=log)
    except CannotStart as error:
        raise CommandError(str(error), ExitCode(error.status)) from error


# ---- renew ---------------------------------------------------------------------------------------


async def _renew(config: "Config", force: bool, dry_run: bool, output: Output) -> None:
    office = _open(config, dry_run=dry_run)
    current = await office.issuer.read()
    if current is not None and not force and _is_young(config, current):
        return
    pair = await _while_answering(office, config, partial(_issue, office, current))
    write_record(
        {
            "names": sorted(pair.names),
            "until": datetime.fromtimestamp(pair.validity.not_after, UTC).isoformat(),
            "issuer": pair.issuer,
            "serial": pair.serial,
            "file": None if dry_run else str(office.issuer.path),
        },
        output=output,
    )


def _is_young(config: "Config", current: "Pair") -> bool:
    """Whether the present certificate is not due yet, which is said."""
    from elemta.runtime.clock import SystemClock
    from elemta.tls.acme.renewal import Wishes, renewal_moment

    moment, _ = renewal_moment(current.validity, Wishes(config.tls.renewal.renewal_days))
    young = SystemClock().wall() < moment
    if young:
        until, due = (_moment(at) for at in (current.validity.not_after, moment))
        click.echo(
            f"the certificate is good until {until}, due for renewal at {due}; to order one now: --force", err=True
        )
    return young


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


async def _issue(office: "Office", current: "Pair | None") -> "Pair":
    from elemta.tls.acme.base import AuthorityAway, AuthorityFailed
    from elemta.tls.acme.cabinet import CabinetBusy
    from elemta.tls.acme.issue import Overdue
    from elemta.tls.acme.order import ChallengeFailed

    try:
        return await office.issuer.issue(current, tell=lambda step: click.echo(f"{step} …", err=True))
    except (AuthorityAway, CabinetBusy, Overdue) as error:
        raise CommandError(f"no certificate was ordered: {error}", ExitCode.TEMPORARY) from error
    except (AuthorityFailed, ChallengeFailed, OSError) as error:
        advice = "`elemta cert why` looks for what is missing."
        raise CommandError(f"no certificate was ordered: {error}. {advice}") from error


async def _while_answering(office: "Office", config: "Config", work: Callable[[], Awaitable[_T]]) -> _T:
    """Answer http-01 while `work` is done, unless the server that runs does so: the port is its own then."""
    import trio

    if office.responder is None:
        return await work()
    await _listen(office.responder, config.tls.lets_encrypt.http_addr)
    failure: CommandError | None = None
    result: list[_T] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(office.responder.run)
        # Raised in here it would come out as a group.
        try:
            result.append(await work())
        except CommandError as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result[0]


async def _listen(responder: "Responder", address: str) -> None:
    from elemta.net.sockets import SystemNetwork
    from elemta.supervisor.failures import cannot_listen

    try:
        await responder.listen(SystemNetwork(), address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            click.echo(f"{address} is in use: if it is by the server that runs here, that one answers.", err=True)
            return
        failure = cannot_listen(error, key="tls.lets_encrypt.http_addr")
        raise CommandError(str(failure), ExitCode(failure.status)) from error


# ---- why -----------------------------------------------------------------------------------------


async def _why(config: "Config") -> list[dict[str, object]]:
    from elemta.net.sockets import SystemNetwork
    from elemta.resolver.dns import DnsResolver
    from elemta.runtime.threads import WorkerThreads
    from elemta.tls.acme.library import LibraryAuthority
    from elemta.tls.acme.why import Finding, Scene, findings

    office = _open(config, dry_run=False)
    terms, threads = office.issuer.terms, WorkerThreads()
    key = await office.issuer.account_key()
    authority = LibraryAuthority(terms.directory_url, key, threads=threads, ca_file=config.tls.lets_encrypt.ca_file)
    scene = Scene(
        terms=terms,
        authority=authority,
        solver=office.solver,
        resolver=DnsResolver(threads),
        network=SystemNetwork(),
        clock_ahead=lambda: authority.clock_ahead,
    )
    rows: list[dict[str, object]] = []

    def tell(found: Finding) -> None:
        rows.append({"subject": found.subject, "state": found.state.value, "says": found.says, "mend": found.mend})

    try:
        await _while_answering(office, config, partial(findings, scene, tell))
    finally:
        await authority.aclose()
    return rows
