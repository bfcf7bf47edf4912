"""STARTTLS, AUTH: what changes who can listen, or who is speaking.

What is not here: the handshake (`net`), the mechanisms, the users (`auth`). RFC 3207 §4, RFC 4954 §4. Failures raised:
`CommandRefused`, which becomes a reply; `LocalProtocolError` for a reply of the driver that does not fit.
"""

from collections.abc import Mapping
from typing import Final

from elemta.mail.reply import Reply
from elemta.smtp import commands, refusals
from elemta.smtp.errors import LocalProtocolError
from elemta.smtp.events import NEED_DATA, AuthResponse, Event, Need, StartTls
from elemta.smtp.lines import MAX_AUTH_OCTETS, LineFault
from elemta.smtp.parameters import CommandRefused
from elemta.smtp.session import Reader, Session, Verb, accepts
from elemta.smtp.states import State

#: RFC 4954 §4: with an initial response these may be followed by other commands at once.
_ONE_ROUND_TRIP: Final = frozenset({"PLAIN", "EXTERNAL"})

# ---- STARTTLS ------------------------------------------------------------------------------------


def starttls(session: Session, argument: bytes) -> Event:
    """RFC 3207 §4."""
    if session.tls_active:
        raise CommandRefused(refusals.ALREADY_TLS)
    if not session.options.starttls:
        raise CommandRefused(refusals.NOT_IMPLEMENTED)
    commands.refuse_argument(argument)
    if session.talks_too_early:
        return session.close_with(refusals.TALKED_TOO_EARLY, "talked too early")
    return session.ask_afresh(StartTls(), _answer_starttls)


def _answer_starttls(session: Session, reply: Reply) -> None:
    accepted = accepts(reply)
    session.send(reply)
    if accepted:
        # Nothing is read in this state, and `tls_started` forgets what came in the clear: RFC 3207 §4.2.
        session.state = State.HANDSHAKE


def read_handshake(session: Session) -> Event | Need:
    """Nothing is read by us while the driver shakes hands."""
    return session.starved() if session.eof else NEED_DATA


# ---- AUTH ----------------------------------------------------------------------------------------


def auth(session: Session, argument: bytes) -> Event:
    """RFC 4954 §4."""
    if not session.auth_offered:
        would_be = session.options.auth_mechanisms and session.options.starttls
        raise CommandRefused(refusals.TLS_NEEDED if would_be else refusals.NOT_IMPLEMENTED)
    if session.authenticated_user is not None:
        raise CommandRefused(refusals.ALREADY_AUTHENTICATED)
    event = commands.parse_auth(argument, session.options.auth_mechanisms)
    one_round_trip = event.initial is not None and event.mechanism in _ONE_ROUND_TRIP
    if session.talks_too_early and not one_round_trip:
        return session.close_with(refusals.TALKED_TOO_EARLY, "talked too early")
    return session.ask(event, _answer_auth)


def _answer_auth(session: Session, reply: Reply) -> None:
    if reply.code == 334:
        if session.asked == AuthResponse(None):
            raise LocalProtocolError("the client has cancelled, RFC 4954 §4 wants 501")
        session.send(reply)
        session.state = State.AUTH
        return
    accepted = accepts(reply)
    if accepted != (session.authenticated_user is not None):
        raise LocalProtocolError(f"{reply} does not fit the user {session.authenticated_user!r}")
    session.send(reply)
    session.state = State.READY
    if reply.code >= 500:
        session.count_error()


def read_auth(session: Session) -> Event | Need | None:
    """The next line of the exchange. What cannot be decoded ends it, RFC 4954 §4."""
    line = session.lines.take_line(MAX_AUTH_OCTETS)
    if line is None:
        return session.starved()
    if line is LineFault.BARE_NEWLINE:
        return session.close_with(refusals.BARE_NEWLINE, "bare newline")
    session.state = State.READY
    if isinstance(line, LineFault):
        return session.refuse(b"AUTH", refusals.AUTH_LINE_TOO_LONG)
    if line == b"*":
        return session.ask(AuthResponse(None), _answer_auth)
    try:
        return session.ask(AuthResponse(commands.decode_base64(line)), _answer_auth)
    except CommandRefused as refused:
        return session.refuse(b"AUTH", refused.reply)


VERBS: Final[Mapping[bytes, Verb]] = {b"STARTTLS": starttls, b"AUTH": auth}
READERS: Final[Mapping[State, Reader]] = {State.HANDSHAKE: read_handshake, State.AUTH: read_auth}
