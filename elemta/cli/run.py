"""`elemta run`: the server in the foreground.

What is not here: the server (`supervisor`). The supervisor is imported when the command runs.
"""

from functools import partial

import click

from elemta.cli.invocation import Invocation
from elemta.cli.output import CommandError, ExitCode


@click.command(name="run", epilog="SIGTERM or Ctrl-C drains, then ends; a second one ends now.")
@click.option("--dev", is_flag=True, help="Catch every mail, send none out: on 127.0.0.1:2525 unless configured.")
@click.option("--smtp", metavar="HOST:PORT", help="Listen for SMTP here, whatever the configuration says.")
@click.option("--http", metavar="HOST:PORT", help="Serve health and metrics here.")
@click.option("--port", type=click.IntRange(0, 65535), hidden=True, help="The original's name for --smtp :PORT.")
@click.option("--ready-fd", type=click.IntRange(0), metavar="N", help="Write one JSON line to descriptor N when ready.")
@click.pass_obj
def run(
    invocation: Invocation, *, dev: bool, smtp: str | None, http: str | None, port: int | None, ready_fd: int | None
) -> None:
    """Run the server in the foreground.

    \b
    elemta run --dev                          catch mail at 127.0.0.1:2525
    elemta run -c /etc/elemta/elemta.conf     run with a configuration
    """
    overrides: dict[str, object] = {}
    if dev:
        overrides["dev_mode"] = True
    if port is not None and smtp is None:
        smtp = f"127.0.0.1:{port}" if dev else f":{port}"
    if smtp is not None:
        # Configured listeners would win over any listen_addr.
        overrides |= {"listen_addr": smtp, "listeners": []}
    if http is not None:
        overrides["web.listen_addr"] = http
    loaded = invocation.load(overrides)
    for warning in loaded.warnings:
        click.echo(f"elemta: warning: {warning}", err=True)
    # Late: the server takes longer to import than every other command takes to run.
    from elemta.supervisor.failures import CannotStart
    from elemta.supervisor.process import ProcessOptions, run_process
    from elemta.supervisor.reload import ConfigSource

    source = ConfigSource(loaded.config, partial(invocation.read, overrides), loaded.source)
    try:
        run_process(source, ProcessOptions(ready_fd=ready_fd))
    except CannotStart as error:
        raise CommandError(str(error), ExitCode(error.status)) from error
