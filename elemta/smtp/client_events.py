"""What the client machine tells its driver.

What is not here: how replies become events (`smtp.client`), or what the driver does about them (`delivery.session`).
"""

import enum
from typing import Final

from attrs import frozen

from elemta.mail.outcome import Outcome
from elemta.mail.reply import Reply


class Awaited(enum.Enum):
    """Which reply the machine waits for: the driver has a deadline for each (RFC 5321 §4.5.3.2)."""

    GREETING = "the connection"
    HELLO = "EHLO"
    #: HELO after a refused EHLO, RFC 5321 §3.2.
    HELO = "HELO"
    STARTTLS = "STARTTLS"
    #: No reply: the TLS handshake is under way.
    HANDSHAKE = "the TLS handshake"
    AUTH = "AUTH"
    RSET = "RSET"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    #: No reply: the host reads the content.
    CONTENT = "content"
    FINAL = "the final dot"
    #: To the dot that ends a mail without recipients, RFC 2920 §3.1.
    EMPTY = "an empty mail"
    QUIT = "QUIT"
    #: No reply: there is no connection yet, or nothing was asked.
    NOTHING = "nothing"

    __hash__ = object.__hash__  # enum's own hashes the name in Python: this one is asked once a reply


@frozen
class Ready:
    """The greeting is over, `ClientMachine.offered` is known: a transaction may begin."""


@frozen
class ContentWanted:
    """The host waits for the content: send it dot-stuffed, call `end_content`, then send the final dot."""


@frozen
class Settled:
    """The transaction is over: an outcome for each recipient, in the order of the envelope.

    `refused_mail` is the reply when MAIL itself got a transient refusal, which another host may not give.
    """

    outcomes: tuple[Outcome, ...]
    refused_mail: Reply | None = None


@frozen
class Ended:
    """The session is over. `reply` is what the host said (421 to anything, a refused greeting or hello, the answer
    to QUIT), None where it just closed. `awaited` is what the machine waited for. Yielded for ever from then on.

    What it means for the recipients of a transaction that was under way, `ClientMachine.conclude` knows.
    """

    reply: Reply | None
    awaited: Awaited


@frozen
class TlsGranted:
    """The host waits for the TLS handshake; when it is done, call `tls_started`."""


@frozen
class TlsRefused:
    """The host offered STARTTLS, but will not do it now. The session goes on in clear."""

    reply: Reply


@frozen
class AuthChallenge:
    """The mechanism's next step, decoded: answer with `auth_response`."""

    data: bytes


@frozen
class AuthEnded:
    """The exchange is over: with a 2yz reply we are authenticated, else not."""

    reply: Reply


class ClientNeed(enum.Enum):
    """Not an event: send what `data_to_send` gives, then wait for octets."""

    DATA = "data"


CLIENT_NEEDS_DATA: Final = ClientNeed.DATA

ClientEvent = Ready | ContentWanted | Settled | Ended | TlsGranted | TlsRefused | AuthChallenge | AuthEnded
