"""What is decided about each recipient.

What is not here: the grammar (`smtp`), or existence of local mailboxes, which may need a disk (`Recipients`).
Relaying is decided at RCPT on the final domain and denied by default.
"""

import enum

from elemta.inbound.options import InboundOptions
from elemta.mail.address import Address
from elemta.mail.reply import Reply

RELAY_DENIED = Reply(550, "5.7.1", "relaying denied: you may not send to this domain through this server")
NO_SUCH_USER = Reply(550, "5.1.1", "no such mailbox here")
LOOKUP_FAILED = Reply(451, "4.3.0", "the mailbox could not be checked now, try again later")
SENDER_OK = Reply(250, "2.1.0", "sender ok")
RECIPIENT_OK = Reply(250, "2.1.5", "recipient ok")


class Ruling(enum.Enum):
    """What becomes of a recipient: taken, refused, or taken if the mailbox exists."""

    ACCEPT = "accept"
    DENY = "deny"
    LOOK_UP = "look up"


def rule_recipient(options: InboundOptions, address: Address, *, may_relay: bool) -> Ruling:
    """Decide about one recipient. In dev mode everybody may send to everybody: nothing leaves the machine."""
    if options.dev_mode:
        return Ruling.ACCEPT
    if address.domain in options.local_domains:
        if address.local.lower() == "postmaster":  # RFC 5321 §4.5.1: always accepted, in any case of letters
            return Ruling.ACCEPT
        return Ruling.LOOK_UP
    return Ruling.ACCEPT if may_relay else Ruling.DENY


def complete_address(options: InboundOptions, address: Address) -> Address:
    """Give the bare `postmaster` of RFC 5321 §4.1.1.3 its domain."""
    return address if address.domain else Address(address.local, options.home_domain)
