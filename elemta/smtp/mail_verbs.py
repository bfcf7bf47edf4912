"""The envelope: MAIL opens a transaction, RCPT adds to it.

What is not here: the content (`smtp.content_verbs`), who may send to whom (`inbound`). RFC 5321 §4.1.1.2 and §4.1.1.3.
Failures raised: `CommandRefused`, which becomes a reply; `LocalProtocolError` for a reply of the driver that does not
fit.
"""

from collections.abc import Mapping
from typing import Final

from elemta.mail.reply import Reply
from elemta.smtp import commands, refusals
from elemta.smtp.events import Event, MailFrom
from elemta.smtp.parameters import CommandRefused
from elemta.smtp.session import MAX_EXCUSED_COMMANDS, Session, Verb, accepts
from elemta.smtp.states import MAIL, RCPT

#: A client may send long lists with dead addresses, and must not lose the living ones for it: so many refused
#: recipients weigh as much as one other error.
REFUSED_RECIPIENTS_AN_ERROR: Final = 10
#: Recipients over the limit are answered 452 each; a client that never stops is answered 421.
MAX_SURPLUS_RECIPIENTS: Final = 10_000


def mail(session: Session, argument: bytes) -> Event:
    """RFC 5321 §4.1.1.2."""
    options = session.options
    session.excused = MAX_EXCUSED_COMMANDS  # until it is accepted
    if options.auth_required and session.authenticated_user is None:
        raise CommandRefused(refusals.AUTH_FIRST)
    if session.transactions >= options.max_transactions:
        return session.close_with(refusals.TOO_MANY_TRANSACTIONS, "too many transactions")
    event = commands.parse_mail(argument, require_tls_offered=session.require_tls_offered)
    if event.size is not None and 0 < options.max_size < event.size:
        raise CommandRefused(refusals.TOO_LARGE)
    return session.ask(event, _answer_mail)


def _answer_mail(session: Session, reply: Reply) -> None:
    event = session.asked
    assert isinstance(event, MailFrom)
    accepted = 200 <= reply.code < 300 or accepts(reply)  # one call less on the hot road
    session.send(reply)
    if accepted:
        session.state = MAIL
        session.smtputf8 = event.smtputf8
        session.transactions += 1
        session.excused = 0
    elif reply.code >= 500:
        session.count_error()


def rcpt(session: Session, argument: bytes) -> Event:
    """RFC 5321 §4.1.1.3."""
    if session.recipients >= session.options.max_recipients:
        session.surplus += 1
        if session.surplus > MAX_SURPLUS_RECIPIENTS:
            return session.close_with(refusals.TOO_MANY_ERRORS, "too many recipients")
        raise CommandRefused(refusals.TOO_MANY_RECIPIENTS)
    try:
        event = commands.parse_rcpt(argument, smtputf8=session.smtputf8)
    except CommandRefused:
        session.excused = MAX_EXCUSED_COMMANDS
        raise
    return session.ask(event, _answer_rcpt)


def _answer_rcpt(session: Session, reply: Reply) -> None:
    accepted = 200 <= reply.code < 300 or accepts(reply)  # one call less on the hot road
    session.send(reply)
    if accepted:
        session.recipients += 1
        session.state = RCPT
        return
    session.excused = MAX_EXCUSED_COMMANDS
    if reply.code >= 500:
        session.refused_recipients += 1
        if session.refused_recipients % REFUSED_RECIPIENTS_AN_ERROR == 0:
            session.count_error()


VERBS: Final[Mapping[bytes, Verb]] = {b"MAIL": mail, b"RCPT": rcpt}
