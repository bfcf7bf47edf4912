"""The command group `elemta cert`: the certificates that clients are shown.

What is not here: ordering them by ACME (`cli.cert_acme`), a client's look at a listener (`cli.cert_probe`). What reads
certificates is imported when a command runs.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from elemta.cli.cert_acme import renew, why
from elemta.cli.invocation import Invocation
from elemta.cli.output import Column, CommandError, ExitCode, Output, output_option, write_record, write_rows

if TYPE_CHECKING:
    from elemta.cli.cert_probe import Seen
    from elemta.config.sections import Config, ListenerSection
    from elemta.tls.certificates import Certificate
    from elemta.tls.served import CertificateFiles

#: Ports at which TLS is spoken from the first octet: RFC 8314 §7.3, and dev mode's.
IMPLICIT_PORTS = ("465", "2465")

_DAY_SECONDS = 86_400.0

_TEST_COLUMNS = (
    Column("listener", "LISTENER"),
    Column("state", "STATE"),
    Column("version", "VERSION"),
    Column("cipher", "CIPHER"),
    Column("names", "NAMES"),
    Column("issuer", "ISSUER"),
    Column("until", "EXPIRES"),
)


class _Group(click.Group):
    """The group, with the original's name for `show`."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, None when there is none."""
        return super().get_command(ctx, "show" if cmd_name == "info" else cmd_name)


@click.group(cls=_Group)
def cert() -> None:
    """See, test and order the certificates that clients are shown.

    \b
    elemta cert show                   what is in them, which listeners show them
    elemta cert test                   look at every listener as a client does
    elemta cert test mx.example.com:25
    """


cert.add_command(renew)
cert.add_command(why)


@cert.command()
@output_option
@click.pass_obj
def show(invocation: Invocation, *, output: Output) -> None:
    """Show each certificate of the configuration: names, chain, when it ends, whether its key fits, who shows it.

    Reads the files, so that it works beside a server that is stopped. Ends with 1 when one cannot be served.

    \b
    elemta cert show
    elemta cert show -o json | jq -r '.[] | "\\(.days_left) \\(.names[0])"'
    """
    from elemta.runtime.clock import SystemClock
    from elemta.supervisor.tls import certificate_files

    config = _config(invocation)
    now = SystemClock().wall()
    rows = [_described(files, now=now) for files in certificate_files(config)]
    for place, row in enumerate(rows):
        row["listeners"] = [listener.name for listener in _tls_listeners(config)]
        row["default"] = place == 0
    _write(rows, output)
    if any(row["state"] in ("unusable", "expired") for row in rows):
        click.get_current_context().exit(ExitCode.FAILED)


def _config(invocation: Invocation) -> "Config":
    config = invocation.load().config
    if not config.tls.enabled:
        raise CommandError("tls.enabled is false, so clients are shown no certificate.", ExitCode.CONFIG)
    return config


def _tls_listeners(config: "Config") -> Sequence["ListenerSection"]:
    from elemta.config.listeners import effective_listeners
    from elemta.config.tls import TlsMode

    return [listener for listener in effective_listeners(config) if listener.tls is not TlsMode.NONE]


# ---- show ----------------------------------------------------------------------------------------


def _described(files: "CertificateFiles", *, now: float) -> dict[str, object]:
    from pathlib import Path

    from elemta.tls.certificates import read_certificate
    from elemta.tls.contexts import TlsUnusable

    named = {"cert_file": files.cert_file, "key_file": files.key_file}
    if files.awaited and not Path(files.cert_file).exists():
        return {"state": "being ordered", "names": [], **named, "remarks": ["elemta cert why says what is missing."]}
    try:
        found = read_certificate(files.cert_file, files.key_file, now=now)
    except TlsUnusable as error:
        return {"state": "unusable", "names": [], **named, "remarks": [str(error)]}
    return {**_facts(found, now=now), **named, "remarks": list(found.warnings)}


def _facts(found: "Certificate", *, now: float) -> dict[str, object]:
    state = "expired" if found.until <= now else "not yet valid" if now < found.begins else "ok"
    return {
        "state": state,
        "names": list(found.names),
        "begins": _moment(found.begins),
        "until": _moment(found.until),
        "days_left": round((found.until - now) / _DAY_SECONDS, 1),
        "key": found.key,
        "key_fits": True,
        "chain": [
            {"subject": link.subject, "issuer": link.issuer, "until": _moment(link.until)} for link in found.chain
        ],
        "serial": found.serial,
        "fingerprint": found.fingerprint,
    }


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _write(rows: Sequence[dict[str, object]], output: Output) -> None:
    if output is not Output.TABLE:
        write_rows(rows, (), output=output)
        return
    for place, row in enumerate(rows):
        if place:
            click.echo()
        write_record({**row, **_in_words(row)}, output=output)


def _in_words(row: dict[str, object]) -> dict[str, object]:
    """The members of a row that are lists, for people."""
    words: dict[str, object] = {}
    for key in ("names", "remarks", "listeners"):
        value = row.get(key)
        words[key] = "\n".join(map(str, value)) or None if isinstance(value, list) else value
    chain = row.get("chain")
    if isinstance(chain, list):
        links = [f"{link['subject']}, until {link['until']}" for link in chain]
        words["chain"] = "\n".join([*links, f"issued by {chain[-1]['issuer']}"])
    return words


# ---- test ----------------------------------------------------------------------------------------


@cert.command()
@click.argument("address", required=False, metavar="[HOST:PORT]")
@click.option("--name", metavar="NAME", help="The name to ask for; by default the host, or our own hostname.")
@click.option("--implicit", is_flag=True, help="Speak TLS from the first octet, as is done at port 465.")
@output_option
@click.pass_obj
def test(invocation: Invocation, *, address: str | None, name: str | None, implicit: bool, output: Output) -> None:
    """Shake hands with every listener, or with one server, and show what a client gets.

    A certificate is `verified` when this machine's authorities vouch for it and for the name that was asked for. Ends
    with 1 when TLS is not to be had, or the certificate has expired.

    \b
    elemta cert test
    elemta cert test mx.example.com:25
    elemta cert test 127.0.0.1:2465 --implicit --name mail.example.com
    """
    import trio

    targets = _targets(invocation, address, implicit=implicit)
    if name is None:
        host = "" if address is None else address.rpartition(":")[0].strip("[]")
        name = host or invocation.load().config.hostname
    rows = trio.run(_test, targets, name)
    write_rows(rows if output is not Output.TABLE else map(_shortened, rows), _TEST_COLUMNS, output=output)
    for row in rows:
        if output is Output.TABLE and row["says"]:
            click.echo(f"{row['listener']}: {row['says']}", err=True)
    if any(row["state"] in ("no TLS", "expired") for row in rows):
        click.get_current_context().exit(ExitCode.FAILED)


def _targets(invocation: Invocation, address: str | None, *, implicit: bool) -> list[tuple[str, bool]]:
    """Where to look, and whether TLS is spoken there from the first octet."""
    from elemta.config.tls import TlsMode

    if address is None:
        return [(one.address, one.tls is TlsMode.IMPLICIT) for one in _tls_listeners(_config(invocation))]
    return [(address, implicit or address.rpartition(":")[2] in IMPLICIT_PORTS)]


async def _test(targets: Sequence[tuple[str, bool]], name: str) -> list[dict[str, object]]:
    from elemta.cli.cert_probe import NoTls, look

    rows: list[dict[str, object]] = []
    for address, implicit in targets:
        row: dict[str, object] = {"listener": address, "mode": "implicit" if implicit else "starttls"}
        try:
            row.update(_row(await look(address, name, implicit=implicit)))
        except NoTls as error:
            row.update(state="no TLS", says=str(error))
        rows.append(row)
    return rows


def _row(seen: "Seen") -> dict[str, object]:
    from elemta.runtime.clock import SystemClock

    expired = seen.until <= SystemClock().wall()
    return {
        "state": "expired" if expired else "not verified" if seen.trouble else "verified",
        "version": seen.version,
        "cipher": seen.cipher,
        "names": list(seen.names),
        "issuer": seen.issuer,
        "until": _moment(seen.until),
        "fingerprint": seen.fingerprint,
        "says": seen.trouble,
    }


def _shortened(row: dict[str, object]) -> dict[str, object]:
    names = row.get("names")
    return {**row, "names": " ".join(map(str, names))} if isinstance(names, list) else row
