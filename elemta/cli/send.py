"""The command `elemta send`: one mail, or a few, to a server, with the dialogue for a person to read.

What is not here: the mail (`cli.send_message`), the sending (`cli.send_run`), the dialogue's lines (`cli.transcript`).
Everything that is slow to import is imported when the command runs.
"""

import re
from pathlib import Path
from typing import Any, Final

import click
from attrs import frozen

from elemta.cli.invocation import Invocation
from elemta.cli.output import CommandError, ExitCode, Output, output_option

#: Where `elemta run --dev` listens when nothing else is configured.
DEV_SERVER: Final = "127.0.0.1:2525"
#: Mails of one command: it is no load generator, and says so by stopping here.
MAX_COUNT: Final = 100_000

#: How `--rate` is written.
RATE: Final = re.compile(r"([1-9][0-9]{0,5})/(s|min|h)")


@frozen
class Given:
    """The options, as they were given."""

    to: tuple[str, ...]
    sender: str | None
    server: str | None
    subject: str | None
    body: str | None
    header: tuple[str, ...]
    attach: tuple[Path, ...]
    raw: Path | None
    auth: str | None
    user: str | None
    tls: str | None
    tls_name: str
    ca_file: str
    insecure: bool
    helo: str | None
    count: int
    rate: str | None
    output: Output


@click.command(
    epilog="Exits with 0 when every recipient was taken, 1 when one was refused for good, 69 when there is no"
    " connection, or none with the TLS asked for, 75 for try again later, 77 when the login was refused."
)
@click.option("--to", multiple=True, required=True, metavar="ADDRESS", help="A recipient; more than once for more.")
@click.option("--from", "sender", metavar="ADDRESS", help='The sender; "<>" for none.')
@click.option("--server", metavar="HOST:PORT", help="By default the configuration's, else dev mode's.")
@click.option("--subject", metavar="TEXT")
@click.option("--body", metavar="TEXT", help='The text; "-" reads it from standard input.')
@click.option("--header", multiple=True, metavar="'NAME: VALUE'", help="A field of the header, in place of ours.")
@click.option("--attach", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="A file to go with it.")
@click.option("--raw", type=click.Path(path_type=Path), metavar="FILE", help='A whole mail; "-" for standard input.')
@click.option("--auth", type=click.Choice(["plain", "login", "scram-sha-256"]), help="How; by default the strongest.")
@click.option("--user", metavar="NAME", help="Log in; the password comes from a prompt, or a line on standard input.")
@click.option(
    "--tls",
    type=click.Choice(["none", "may", "require", "verify", "implicit"]),
    help="STARTTLS never, if offered, always, always with a good certificate; or TLS from the first octet. By default"
    " may, with a login to another machine verify.",
)
@click.option("--tls-name", default="", metavar="NAME", help="What the certificate is for, if not the server's name.")
@click.option("--ca-file", default="", metavar="FILE", help="Whom certificates are trusted by, PEM.")
@click.option("--insecure", is_flag=True, help="Take any certificate, and send the password all the same.")
@click.option("--helo", metavar="NAME", help="What we call ourselves; by default this machine's name.")
@click.option("--count", type=click.IntRange(1, MAX_COUNT), default=1, metavar="N", help="How many mails.")
@click.option("--rate", metavar="N/s", help="At most so many, N/s, N/min or N/h.")
@output_option
@click.pass_obj
def send(invocation: Invocation, /, **options: Any) -> int:
    """Send a mail by SMTP, and show the dialogue.

    \b
    elemta send --to you@example.com
    elemta send --to you@example.com --server mx.example.com:25 --tls verify
    elemta send --to you@example.com --server mail.example.com:587 --user me@example.com < password
    elemta send --to you@example.com --raw mail.eml
    """
    given = Given(**options)
    _check(given)
    # Late: the event loop and what delivers.
    import trio

    from elemta.cli.send_plan import carry_out
    from elemta.cli.send_report import Report

    report = Report(given, show_all=invocation.verbose > 0)
    trio.run(carry_out, given, report, given.server or _default_server(invocation), _password(given))
    return report.finish()


def _check(given: Given) -> None:
    """Raises `CommandError` for options that do not fit together."""
    if given.raw is not None and (given.subject or given.body or given.header or given.attach):
        raise CommandError("--raw is the whole mail: no --subject, --body, --header, --attach with it", ExitCode.USAGE)
    if given.auth is not None and given.user is None:
        raise CommandError("--auth says how to log in; --user says as whom", ExitCode.USAGE)
    if given.rate is not None and RATE.fullmatch(given.rate) is None:
        raise CommandError(f"--rate {given.rate}: expected N/s, N/min or N/h, as in 5/s", ExitCode.USAGE)


def _password(given: Given) -> str:
    """From a prompt, or the first line on standard input, which `--body -` and `--raw -` read on."""
    if given.user is None:
        return ""
    from elemta.cli.user_store import asked_password

    return asked_password(twice=False)


def _default_server(invocation: Invocation) -> str:
    """The configuration's listener; dev mode's where there is no configuration. Raises `CommandError`."""
    from elemta.cli.submission_point import NoPoint, point_of

    loaded = invocation.load()
    if loaded.source is None:
        return DEV_SERVER
    try:
        return point_of(loaded.config).address
    except NoPoint as error:
        raise CommandError(f"{error}: --server HOST:PORT", ExitCode.USAGE) from error
