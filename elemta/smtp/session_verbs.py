"""The verbs that move no mail: HELO, EHLO, RSET, NOOP, HELP, VRFY, QUIT, XDEBUG.

What is not here: STARTTLS with AUTH (`smtp.security_verbs`). RFC 5321 §4.1.1. Failures raised: `CommandRefused`, which
becomes a reply; `LocalProtocolError` for a reply of the driver that does not fit.
"""

from collections.abc import Mapping
from typing import Final

from elemta.mail.reply import Reply
from elemta.smtp import commands, refusals
from elemta.smtp.events import Debug, Event, Hello, Reset
from elemta.smtp.parameters import CommandRefused
from elemta.smtp.session import Session, Verb, accepts
from elemta.smtp.states import State


def ehlo(session: Session, argument: bytes) -> Event:
    """RFC 5321 §4.1.1.1."""
    return _hello(session, argument, extended=True)


def helo(session: Session, argument: bytes) -> Event:
    """RFC 5321 §4.1.1.1."""
    return _hello(session, argument, extended=False)


def _hello(session: Session, argument: bytes, *, extended: bool) -> Event:
    domain = commands.parse_hello(argument)
    if session.talks_too_early:
        return session.close_with(refusals.TALKED_TOO_EARLY, "talked too early")
    return session.count_idle() or session.ask_afresh(Hello(domain, extended), _answer_hello)


def _answer_hello(session: Session, reply: Reply) -> None:
    hello = session.asked
    assert isinstance(hello, Hello)
    if not accepts(reply):
        session.send(reply)
        if reply.code >= 500:
            session.count_error()
        return
    session.send(Reply(250, "", extensions(session) if hello.extended else session.options.hostname))
    session.hello_domain, session.extended = hello.domain, hello.extended
    session.state = State.READY
    session.excused = 0


def extensions(session: Session) -> tuple[str, ...]:
    """The lines of the answer to EHLO. HELP is the last one, for the scripts that wait for it."""
    options = session.options
    return (
        options.hostname,
        "PIPELINING",
        f"SIZE {options.max_size}",
        "8BITMIME",
        "SMTPUTF8",
        "CHUNKING",
        "ENHANCEDSTATUSCODES",
        "DSN",
        "MT-PRIORITY",
        *(("STARTTLS",) if options.starttls and not session.tls_active else ()),
        *((f"AUTH {' '.join(options.auth_mechanisms)}",) if session.auth_offered else ()),
        *(("REQUIRETLS",) if session.require_tls_offered else ()),
        *(("XDEBUG",) if options.dev_mode else ()),
        "HELP",
    )


def _answered(session: Session, reply: Reply) -> Event | None:
    closing = session.count_idle()
    if closing is None:
        session.send(reply)
    return closing


def rset(session: Session, argument: bytes) -> Event | None:
    """RFC 5321 §4.1.1.5."""
    commands.refuse_argument(argument)
    if closing := session.count_idle():
        return closing
    session.excused = 0
    session.send(refusals.RESET_DONE)
    if not session.in_transaction:
        return None
    session.end_transaction()
    return Reset()


def noop(session: Session, _argument: bytes) -> Event | None:
    """RFC 5321 §4.1.1.9: whatever follows is ignored."""
    return _answered(session, refusals.NOTHING_DONE)


def help_(session: Session, _argument: bytes) -> Event | None:
    """RFC 5321 §4.1.1.8."""
    return _answered(session, refusals.HELP)


def vrfy(session: Session, argument: bytes) -> Event | None:
    """RFC 5321 §3.5.3: 252 for any string, so that nothing can be learnt."""
    if not argument:
        raise CommandRefused(refusals.ARGUMENT_NEEDED)
    return _answered(session, refusals.CANNOT_VERIFY)


def quit_(session: Session, argument: bytes) -> Event:
    """RFC 5321 §4.1.1.10."""
    commands.refuse_argument(argument)
    return session.close_with(refusals.GOODBYE, "quit")


def xdebug(session: Session, argument: bytes) -> Event:
    """Our own, as the original documents it: shows the session to a developer. Unknown outside of dev mode."""
    if not session.options.dev_mode:
        raise CommandRefused(refusals.UNKNOWN_COMMAND)
    words = commands.parse_words(argument)
    return session.count_idle() or session.ask(Debug(words), _answer_debug)


def _answer_debug(session: Session, reply: Reply) -> None:
    accepts(reply)
    session.send(reply)


VERBS: Final[Mapping[bytes, Verb]] = {
    b"EHLO": ehlo,
    b"HELO": helo,
    b"RSET": rset,
    b"NOOP": noop,
    b"HELP": help_,
    b"VRFY": vrfy,
    b"QUIT": quit_,
    b"XDEBUG": xdebug,
}
