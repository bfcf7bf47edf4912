"""`elemta sendmail`: what programs call /usr/sbin/sendmail for.

What is not here: the program (`cli.sendmail_program`), which the script `elemta-sendmail` is without this command line.
"""

from collections.abc import Sequence

import click

from elemta.cli.invocation import Invocation


class _WordsAsTheyCome(click.Command):
    """Sendmail's options are not click's: only a lone --help is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args == ["--help"]:
            return super().parse_args(ctx, args)
        ctx.params["words"] = tuple(args)
        return []


@click.command(
    cls=_WordsAsTheyCome,
    options_metavar="",
    epilog="The exit code is one of sysexits.h: 64 usage, 65 the mail, 67 no such recipient, 69 refused, 75 try again,"
    " 78 the configuration. ELEMTA_SENDMAIL_SERVER=host:port names the server.",
)
@click.argument("words", nargs=-1, metavar="[-t] [-i] [-f SENDER] [-F NAME] [--] [RECIPIENT]...")
@click.pass_obj
def sendmail(invocation: Invocation, words: Sequence[str]) -> int:
    """Send the mail on standard input, as /usr/sbin/sendmail does; elemta-sendmail is the same.

    \b
    -t                   take recipients from To, Cc and Bcc, too; remove Bcc
    -i, -oi              a line with a dot alone does not end the mail
    -f SENDER            the envelope's sender; <> for none
    -F NAME              the sender's name, for a mail without From
    -B 7BIT|8BITMIME     what the body is
    -N never|success,failure,delay    which reports are wanted
    -R full|hdrs, -V ID  what they return, which id they name
    -C FILE              the configuration
    -v                   show the dialogue
    -bs                  speak SMTP on standard input and output
    -bp                  list the queue

    \b
    elemta-sendmail -t -i < mail.eml
    """
    from elemta.cli.sendmail_program import run

    config = ("-C", invocation.config_path) if invocation.config_path else ()
    return int(run([*config, *words]))
