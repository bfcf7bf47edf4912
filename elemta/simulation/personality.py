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
    off: tuple[Span, ...] = ()
    silent: tuple[Span, ...] = ()


#: Where the hosts that speak LMTP listen: the port that Dovecot's manual gives to it.
LMTP_PORT = 24
#: Seconds that a stalled final reply takes: beyond the ten minutes that RFC 5321 §4.5.3.2.6 gives it.
STALL_SECONDS = 900.0
#: Octets within which a connection breaks: a greeting, a dialogue, a small mail.
RESET_WITHIN_OCTETS = 4000
