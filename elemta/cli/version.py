"""The command `elemta version`.

What is not here: `elemta --version`, which is click's own.
"""

import click

from elemta import __version__
from elemta.cli.output import Output, output_option, write_record


@click.command()
@output_option
def version(output: Output) -> None:
    """Print the version, and those of what it stands on.

    \b
    elemta version
    elemta version -o json
    """
    if output is Output.TABLE:
        click.echo(f"elemta {__version__}")
        return
    # Late: the plain answer needs none of them.
    import platform
    import sqlite3
    from importlib.metadata import version as installed

    record = {
        "schema": 1,
        "elemta": __version__,
        "python": platform.python_version(),
        "trio": installed("trio"),
        "sqlite": sqlite3.sqlite_version,
    }
    write_record(record, output=output)
