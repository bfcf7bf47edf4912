"""The characters of scripted hosts.

What is not here: the host that acts on one (`simulation.hosts`). A personality is what a host does to every client;
single recipients have manners of their own, by the first word of their local part (`Manner`).
"""

import enum

from attrs import frozen

from elemta.simulation.nodes import Span


class Manner(enum.Enum):
    """How a host answers for a recipient whose local part begins with the value and a hyphen."""

    TAKEN = "ok"
    REFUSED = "no"
    #: The first `LATER_TIMES` tries are answered 450.
    LATER = "later"
    NEVER = "never"


#: Tries of a recipient of `Manner.LATER` before it is taken.
LATER_TIMES = 2


class Handshake(enum.Enum):
    """What comes of STARTTLS, of a handshake at a port of implicit TLS."""

    WORKS = "works"
    #: 454 instead of 220 (RFC 3207 §4).
    REFUSED = "refused"
    #: Nothing more is said, and nothing read.
    STALLS = "stalls"
    #: Something that is no TLS is said instead.
    GARBAGE = "garbage"
    #: The connection ends.
    CLOSES = "closes"
    #: It works, but behind the reply in clear stood more, as if somebody on the way had put it there.
    INJECTED = "injected"


class Shown(enum.Enum):
    """Which certificate a host shows."""

    GOOD = "good"
    OTHER_NAME = "other-name"
    OTHER_AUTHORITY = "other-authority"


#: What stands in the replies of `Handshake.INJECTED`: nobody may believe it.
INJECTED_WORDS = "said before TLS"


def manner_of(recipient: str) -> Manner:
    """The manner of a recipient's address."""
    word = recipient.partition("-")[0]
    return next((manner for manner in Manner if manner.value == word), Manner.TAKEN)


@frozen
class Personality:
    """What a host does. Counts are of occasions, then it behaves; times are virtual seconds.

    * `greylists`: 450 for so many tries of each sender and recipient.
    * `mails_per_connection`, `mails_per_minute`: 421 beyond; 0 is no limit.
    * `resets`: so many connections break after a drawn number of octets, in either direction.
    * `slow`: each reply takes up to so long.
    * `stalls`: so many final replies come after `STALL_SECONDS`, longer than any client waits; the mail is kept.
    * `refuses`: every client hears 554 instead of a greeting.
    * `busy_until`: every client hears 421 until then.
    * `final_defers`: so many final dots are answered 451.
    * `final_refuses`: every final dot is answered 554.
    * `drops`: so many connections end after the final dot, without a reply; `keeps_dropped` says whether the mail was
      kept.
    * `helo_only`: it does not know EHLO. `pipelining`: it offers it.
    * `lmtp`: it speaks LMTP at `LMTP_PORT`: a final reply for each recipient (RFC 2033 §4.2), each of which
      `final_defers` counts.
    * `starttls`: what becomes of it in the first connection that says EHLO, in the second, …, the last of these from
      then on; None offers none. `shown` is the host's certificate. An `old_tls` host knows TLS 1.2 at most.
    * `requiretls`: it offers REQUIRETLS (RFC 8689) under TLS.
    * `implicit_tls`: it listens at `SMTPS_PORT`, where TLS comes first.
    * `off`: its machine is off, connections are refused. `silent`: nothing comes through.
    """

    greylists: int = 0
    mails_per_connection: int = 0
    mails_per_minute: int = 0
    resets: int = 0
    slow: float = 0.0
    stalls: int = 0
    refuses: bool = False
    busy_until: float = 0.0
    final_defers: int = 0
    final_refuses: bool = False
    drops: int = 0
    keeps_dropped: bool = True
    helo_only: bool = False
    pipelining: bool = True
    lmtp: bool = False
    starttls: tuple[Handshake | None, ...] = (None,)
    shown: Shown = Shown.GOOD
    old_tls: bool = False
    requiretls: bool = False
    implicit_tls: bool = False
    off: tuple[Span, ...] = ()
    silent: tuple[Span, ...] = ()


#: Where the hosts that speak LMTP listen: the port that Dovecot's manual gives to it.
LMTP_PORT = 24
#: RFC 8314 §3.3.
SMTPS_PORT = 465
#: Seconds that a stalled final reply takes: beyond the ten minutes that RFC 5321 §4.5.3.2.6 gives it.
STALL_SECONDS = 900.0
#: Octets within which a connection breaks: a greeting, a dialogue, a small mail.
RESET_WITHIN_OCTETS = 4000
