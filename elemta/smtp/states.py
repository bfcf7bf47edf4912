"""The states of a server's session, beside the table of what may come in which.

What is not here: what a command does (`smtp.server`). A verb that the table does not name is allowed in every state in
which commands are read at all. RFC 5321 §4.1.4 gives the order of commands, RFC 3030 §2 that of chunks.
"""

import enum
from collections.abc import Mapping
from typing import Final

from elemta.mail.reply import Reply
from elemta.smtp import refusals


class State(enum.Enum):
    """Where a session stands. A command that waits for the driver's reply leaves it where it was."""

    #: Not greeted yet.
    GREETING = "greeting"
    #: Greeted with 554: QUIT alone has a meaning, RFC 5321 §3.1.
    UNWELCOME = "unwelcome"
    #: Greeted, or TLS has just begun: EHLO is due.
    START = "start"
    #: Outside of any transaction.
    READY = "ready"
    #: A transaction without recipients.
    MAIL = "mail"
    #: A transaction with at least one recipient.
    RCPT = "rcpt"
    #: Between two chunks of a mail.
    CHUNKS = "chunks"
    #: Within the content after 354.
    DATA = "data"
    #: Within a chunk.
    CHUNK = "chunk"
    #: Within a chunk that is thrown away.
    SKIP = "skip"
    #: The next line is a response in an AUTH exchange.
    AUTH = "auth"
    #: The TLS handshake is the driver's.
    HANDSHAKE = "handshake"
    CLOSED = "closed"

    # Members are singletons; the hash of Enum would run Python at every look-up of a table.
    __hash__ = object.__hash__


# The states of the hot road by themselves: under Python 3.11 a member looked up through its class costs 100 ns, through
# its module 15.
READY: Final = State.READY
MAIL: Final = State.MAIL
RCPT: Final = State.RCPT
DATA: Final = State.DATA
START: Final = State.START
#: What comes in these is not kept.
DEAF: Final = frozenset({State.GREETING, State.HANDSHAKE, State.CLOSED})
IN_TRANSACTION: Final = frozenset({State.MAIL, State.RCPT, State.CHUNKS, State.DATA, State.CHUNK})

#: Verb → state → why it is refused there.
OUT_OF_ORDER: Final[Mapping[bytes, Mapping[State, Reply]]] = {
    b"MAIL": {
        State.START: refusals.HELLO_FIRST,
        State.MAIL: refusals.NESTED_MAIL,
        State.RCPT: refusals.NESTED_MAIL,
        State.CHUNKS: refusals.BETWEEN_CHUNKS,
    },
    b"RCPT": {
        State.START: refusals.HELLO_FIRST,
        State.READY: refusals.MAIL_FIRST,
        State.CHUNKS: refusals.BETWEEN_CHUNKS,
    },
    b"DATA": {
        State.START: refusals.HELLO_FIRST,
        State.READY: refusals.MAIL_FIRST,
        State.MAIL: refusals.NO_RECIPIENTS,
        State.CHUNKS: refusals.BETWEEN_CHUNKS,
    },
    b"BDAT": {
        State.START: refusals.HELLO_FIRST,
        State.READY: refusals.MAIL_FIRST,
        State.MAIL: refusals.NO_RECIPIENTS,
    },
    b"STARTTLS": {State.START: refusals.HELLO_FIRST},
    b"AUTH": {
        State.START: refusals.HELLO_FIRST,
        # RFC 4954 §4: not permitted during a mail transaction.
        State.MAIL: refusals.NESTED_MAIL,
        State.RCPT: refusals.NESTED_MAIL,
        State.CHUNKS: refusals.BETWEEN_CHUNKS,
    },
}
