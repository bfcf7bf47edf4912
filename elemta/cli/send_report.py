"""What `elemta send` prints, with the exit code that it ends with.

What is not here: the dialogue's lines (`cli.transcript`). The transcript is for people; with `-o json` there is none,
and one object says what came of it.
"""

import time
from collections.abc import Sequence
from typing import Final

import click

from elemta.cli.output import CommandError, ExitCode, Output, color_wanted, write_record
from elemta.cli.send import Given
from elemta.cli.send_run import NotOpened
from elemta.cli.transcript import Line, Side, Transcript
from elemta.mail.envelope import Envelope
from elemta.mail.outcome import Deferred, Delivered, Failed, Outcome
from elemta.mail.reply import Reply

_COLORS: Final = {Side.CLIENT: "cyan", Side.NOTE: "bright_black"}
#: By a reply's first digit.
_REPLY_COLORS: Final = {"2": "green", "3": "green", "4": "yellow", "5": "red"}
_WORDS: Final = {Delivered: "taken", Deferred: "try again later", Failed: "refused"}
_RESULTS: Final = {Delivered: "delivered", Deferred: "deferred", Failed: "failed"}
#: A reply of ours that says that there is no way to the server: X.4 and X.7 of RFC 3463 §3.5 and §3.8.
_NO_ROAD: Final = ("4.4.", "4.7.")
#: "The connection is not good enough for a password", RFC 5248 §2.4's registry.
_NOT_ENCRYPTED: Final = "4.7.11"


class Report:
    """What happened so far. With one mail the whole dialogue is shown, with several that of the first one.

    With `show_all` everything is, the mails' content too.
    """

    def __init__(self, given: Given, *, show_all: bool) -> None:
        self.transcript = Transcript(self._show, content=show_all)
        self._output = given.output
        self._count = given.count
        self._show_all = show_all
        self._is_shown = given.output is Output.TABLE
        self._color = color_wanted()
        self._began = time.monotonic()
        self._server = ""
        self._envelope: Envelope | None = None
        self._failure: NotOpened | None = None
        self._outcomes: Sequence[Outcome] = ()
        self._mails = 0
        #: Recipients by what became of them, over all mails.
        self._tally: dict[type[Outcome], int] = {Delivered: 0, Deferred: 0, Failed: 0}

    def begin(self, server: str, envelope: Envelope) -> None:
        """The first mail is about to be sent."""
        self._server = server
        self._envelope = envelope
        self._began = time.monotonic()

    def settled(self, outcomes: Sequence[Outcome]) -> None:
        """One more mail is over."""
        self._mails += 1
        self._outcomes = outcomes
        for outcome in outcomes:
            self._tally[type(outcome)] += 1
        if self._output is not Output.TABLE or self._envelope is None:
            return
        for recipient, outcome in zip(self._envelope.recipients, outcomes, strict=True):
            if self._is_shown or not isinstance(outcome, Delivered):
                says = f"{_WORDS[type(outcome)]} for {recipient.address}: {outcome.reply}"
                click.secho(says, bold=True, color=self._color)
        if self._count > 1 and self._is_shown and not self._show_all:
            self.transcript.note(f"the same {self._count - 1} times more, without the dialogue")
            self._is_shown = False

    def not_opened(self, failure: NotOpened) -> None:
        """There is no session."""
        self._failure = failure

    def finish(self) -> int:
        """Say what is left to say; the exit code. Raises `CommandError` when there was no session."""
        seconds = time.monotonic() - self._began
        if self._output is not Output.TABLE:
            write_record(self._record(seconds), output=self._output)
        elif self._count > 1:
            each = f", {self._mails / seconds:.1f} a second" if seconds > 0 else ""
            parts = ", ".join(f"{count} {_WORDS[kind]}" for kind, count in self._tally.items() if count)
            click.echo(f"{self._mails} mails in {seconds:.2f} s{each}; recipients: {parts or 'none'}")
        if self._failure is not None:
            raise CommandError(_sentence(self._failure, self._server), self._exit_code())
        return self._exit_code()

    def _exit_code(self) -> ExitCode:
        if self._failure is not None:
            return _exit_code(self._failure)
        if self._tally[Failed]:
            return ExitCode.FAILED
        return ExitCode.TEMPORARY if self._tally[Deferred] else ExitCode.OK

    def _record(self, seconds: float) -> dict[str, object]:
        recipients = self._envelope.recipients if self._envelope is not None else ()
        return {
            "schema": 1,
            "server": self._server,
            "mails": self._mails,
            "seconds": round(seconds, 3),
            **{_RESULTS[kind]: count for kind, count in self._tally.items()},
            "error": str(self._failure.reply) if self._failure is not None else "",
            # Of the last mail.
            "recipients": [
                {
                    "recipient": str(recipient.address),
                    "result": _RESULTS[type(outcome)],
                    **_reply(outcome.reply),
                    "address": outcome.peer.address,
                    "tls": outcome.peer.tls,
                }
                for recipient, outcome in zip(recipients, self._outcomes, strict=False)
            ],
        }

    def _show(self, line: Line) -> None:
        if not self._is_shown:
            return
        color = _REPLY_COLORS.get(line.text[:1]) if line.side is Side.SERVER else _COLORS[line.side]
        click.secho(str(line), fg=color, color=self._color)


def _reply(reply: Reply) -> dict[str, object]:
    return {"code": reply.code, "enhanced": reply.enhanced, "text": reply.text}


def _exit_code(failure: NotOpened) -> ExitCode:
    reply = failure.reply
    if failure.is_login:
        # RFC 4954 §6: 454 is the server's own trouble; a 451 is ours, and no guess will mend it.
        return ExitCode.TEMPORARY if reply.code in (421, 454) else ExitCode.PERMISSION
    if reply.is_permanent:
        return ExitCode.FAILED
    return ExitCode.UNREACHABLE if reply.code == 451 and reply.enhanced.startswith(_NO_ROAD) else ExitCode.TEMPORARY


def _sentence(failure: NotOpened, server: str) -> str:
    reply = failure.reply
    if failure.is_login and reply.enhanced == _NOT_ENCRYPTED:
        says = reply.text.partition(";")[0]
        return f"{server}: {says}. Give --tls verify or --tls implicit, or --insecure."
    what = "the login was refused" if failure.is_login else "no session"
    return f"{server}: {what}: {reply}"
