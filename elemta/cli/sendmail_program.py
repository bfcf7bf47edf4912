"""The sendmail program: takes a mail from another program, gives it to the server, answers with an exit code.

It stands at /usr/sbin/sendmail, so it is started often by programs that know nothing of us: it imports no event loop,
and reads no configuration from the folder it happens to be started in, which may be anybody's. What is not here: how
the command line is read (`cli.sendmail_options`), the mail mended (`cli.sendmail_letter`), the server spoken to
(`cli.sendmail_road`). Failures raised: none; each is a line on standard error, with its `SysExit`.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from elemta.cli.sendmail_options import Mode, Order, read_options
from elemta.cli.sendmail_trouble import PROGRAM, SysExit, Trouble
from elemta.smtp.replies import printable

if TYPE_CHECKING:
    from elemta.cli.sendmail_letter import Letter
    from elemta.cli.submission_point import SubmissionPoint
    from elemta.mail.outcome import Outcome

#: Octets of a mail that are taken: it is held in memory. Servers take less; ours 25 MiB, unless told otherwise.
MAX_INPUT_OCTETS: Final = 64 * 1024 * 1024
#: Names the server, as `host:port` or `unix:/path`; the configuration is not read then.
SERVER_VARIABLE: Final = "ELEMTA_SENDMAIL_SERVER"
#: The configuration that the machine's own server has.
SYSTEM_CONFIG: Final = Path("/etc/elemta/elemta.conf")
#: Where a server listens that no configuration tells of, RFC 5321 §4.5.4.2's port.
_DEFAULT_SERVER: Final = "127.0.0.1:25"
#: Octets of chance in a Message-ID: those of a queue id.
ID_CHANCE_OCTETS: Final = 11
#: Recipients that are named of those with one answer.
_MOST_NAMED: Final = 5
#: What other names of sendmail ask for.
_BY_NAME: Final = {"mailq": ("-bp",), "newaliases": ("-bi",)}
_STDIN, _STDOUT, _STDERR = 0, 1, 2


def main() -> NoReturn:
    """Be /usr/sbin/sendmail, or the program that a link to it is called."""
    sys.exit(run([*_BY_NAME.get(Path(sys.argv[0]).name, ()), *sys.argv[1:]]))


def run(words: Sequence[str], *, environ: Mapping[str, str] = os.environ) -> SysExit:
    """Do what the command line says; the exit code."""
    try:
        return _carry_out(read_options(words), environ)
    except Trouble as trouble:
        _say(trouble.says)
        return trouble.status
    except KeyboardInterrupt:
        return SysExit.TEMPFAIL
    except Exception as error:
        _say(f"an error that should not happen: {type(error).__name__}: {error}")
        return SysExit.SOFTWARE


def _say(text: str) -> None:
    _print(f"{PROGRAM}: {printable(text.encode('utf-8', 'replace'))}")


def _print(line: object) -> None:
    """To standard error, if anybody reads it: a caller that does not, as `head`, wants its mail sent all the same."""
    try:
        print(line, file=sys.stderr)
    except OSError:
        # Or the interpreter would try the line once more at its end, and end with 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDERR)


def _carry_out(order: Order, environ: Mapping[str, str]) -> SysExit:
    if order.mode in (Mode.DELIVER, Mode.SMTP) and sys.stdin is None:
        raise Trouble(SysExit.NOINPUT, "standard input is closed: there is no mail to read")
    match order.mode:
        case Mode.NOTHING:
            return SysExit.OK
        case Mode.LIST:
            _list_queue(order)
        case Mode.SMTP:
            from elemta.cli.sendmail_road import speak

            speak(_point(order, environ).address, _STDIN, _STDOUT)
        case Mode.DELIVER:
            return _deliver(order, environ)
    return SysExit.OK


def _list_queue(order: Order) -> NoReturn:
    # Late: nothing else here needs the command line.
    from elemta.cli.main import main as elemta

    elemta([*(["-c", order.config_path] if order.config_path else []), "queue", "list"])


def _deliver(order: Order, environ: Mapping[str, str]) -> SysExit:
    from elemta.cli.sendmail_letter import Author, write_letter
    from elemta.cli.sendmail_road import submit
    from elemta.cli.transcript import Transcript
    from elemta.mail.ids import make_queue_id

    octets = sys.stdin.buffer.read(MAX_INPUT_OCTETS + 1)
    if len(octets) > MAX_INPUT_OCTETS:
        raise Trouble(SysExit.DATAERR, f"the mail has more than {MAX_INPUT_OCTETS} octets")
    point = _point(order, environ)
    now = time.time()
    author = Author(
        _user(), point.hostname, now, make_queue_id(int(now * 1000), int.from_bytes(os.urandom(ID_CHANCE_OCTETS)))
    )
    letter = write_letter(octets, order, author=author)
    transcript = Transcript(_print) if order.verbose else None
    return _report(letter, submit(letter, point.address, hostname=point.hostname, transcript=transcript))


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user has no name
        return f"uid{os.geteuid()}"


# ---- where to


def _point(order: Order, environ: Mapping[str, str]) -> "SubmissionPoint":
    """The server: what the environment names, else the configuration's, else port 25 of this machine."""
    from elemta.cli.submission_point import NoPoint, SubmissionPoint, own_hostname, point_of

    named = environ.get(SERVER_VARIABLE)
    if named:
        if not named.startswith("unix:") and not named.rpartition(":")[2].isdigit():
            raise Trouble(SysExit.CONFIG, f"{SERVER_VARIABLE} is {named}: it should be host:port or unix:/path")
        return SubmissionPoint(named, own_hostname())
    path = order.config_path or environ.get("ELEMTA_CONFIG") or environ.get("ELEMTA_CONFIG_PATH")
    if path is None:
        # Others may not read it, for the secrets in it; they send all the same.
        if not os.access(SYSTEM_CONFIG, os.R_OK):
            return SubmissionPoint(_DEFAULT_SERVER, own_hostname())
        path = str(SYSTEM_CONFIG)
    # Late: it takes as long to import as all the rest.
    from elemta.config.load import load_config
    from elemta.config.problems import ConfigError

    try:
        return point_of(load_config(path, environ, cwd=Path.cwd()).config)
    except ConfigError as error:
        raise Trouble(SysExit.CONFIG, f"the configuration cannot be used: {error}") from None
    except NoPoint as error:
        raise Trouble(SysExit.CONFIG, f"{error}: {SERVER_VARIABLE}=host:port") from None


# ---- what came of it


def _report(letter: "Letter", outcomes: Sequence["Outcome"]) -> SysExit:
    """Say what was refused. Each recipient that was taken has the mail, whatever became of the others."""
    from elemta.mail.outcome import Deferred, Delivered, Failed

    refused = [outcome for outcome in outcomes if not isinstance(outcome, Delivered)]
    named: dict[str, list[str]] = {}
    for recipient, outcome in zip(letter.envelope.recipients, outcomes, strict=True):
        if not isinstance(outcome, Delivered):
            doubt = (
                "; the mail may be there all the same" if isinstance(outcome, Deferred) and outcome.uncertain else ""
            )
            named.setdefault(f"{outcome.reply}{doubt}", []).append(str(recipient.address))
    for reply, who in named.items():
        rest = f" and {len(who) - _MOST_NAMED} more" if len(who) > _MOST_NAMED else ""
        _say(f"{', '.join(who[:_MOST_NAMED])}{rest}: {reply}")
    if refused and len(refused) < len(outcomes):
        _say(f"the mail went to the other {len(outcomes) - len(refused)}")
    failed = [outcome.reply for outcome in refused if isinstance(outcome, Failed)]
    if failed:
        # X.1 of RFC 3463 §3.2: it is about the address.
        unknown = all(reply.enhanced.startswith("5.1.") for reply in failed)
        return SysExit.NOUSER if unknown else SysExit.UNAVAILABLE
    return SysExit.TEMPFAIL if refused else SysExit.OK
