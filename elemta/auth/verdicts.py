"""What a client hears of its attempt to log in.

What is not here: how that comes about (`auth.attempt`), the session (`inbound.login`). The codes: RFC 4954 §4, §6.

The text of a refusal is the same for a wrong password, an unknown user, a disabled one: nobody learns who exists. Who
is locked out hears 421 and not 535, before anything is looked at: a mail program asks its user for another password at
535, which would be the wrong advice, and a program that goes on guessing has to connect anew each time.
"""

import enum
from typing import Final

from attrs import frozen

from elemta.auth.senders import Permit
from elemta.mail.reply import Reply

WELCOME: Final = Reply(235, "2.7.0", "authentication succeeded")
WRONG: Final = Reply(535, "5.7.8", "authentication failed: wrong user or password")
AWAY: Final = Reply(454, "4.7.0", "temporary authentication failure, try again later")
LOCKED_OUT: Final = Reply(421, "4.7.0", "too many failed logins, try again later")
MALFORMED: Final = Reply(501, "5.5.2", "that does not follow the mechanism")
CANCELLED: Final = Reply(501, "5.7.0", "authentication cancelled")


class Cause(enum.Enum):
    """Why an attempt failed, for metrics and the log."""

    WRONG = "wrong"
    LOCKED_OUT = "locked out"
    AWAY = "away"
    MALFORMED = "malformed"
    CHANNEL = "channel"
    CANCELLED = "cancelled"


#: Causes that count against the session.
GUESSES: Final = frozenset({Cause.WRONG, Cause.CHANNEL})


@frozen
class Granted:
    """The client is this user, who may use what the permit says."""

    user: str
    permit: Permit


@frozen
class Denied:
    """The client is nobody we know."""

    reply: Reply
    cause: Cause


@frozen
class ClientFacts:
    """Of one connection: the peer's IP address (a path or empty for a unix socket); whether it is encrypted; whether
    both ends are on this machine; the octets of our certificate's channel binding (RFC 5929 §4), empty without TLS."""

    address: str
    encrypted: bool = False
    local: bool = False
    binding: bytes = b""
