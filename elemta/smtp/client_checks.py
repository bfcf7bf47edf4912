"""What a host must offer before a mail is given to it.

What is not here: how the commands are written (`smtp.client_commands`), the conversion of 8-bit content
(`delivery.conversion`), or REQUIRETLS, which asks more than an offer (`delivery.tlspolicy`). Failures raised: none; an
objection is a reply, as if the host itself had refused.
"""

from typing import Final

from elemta.mail.address import Address
from elemta.mail.reply import Reply
from elemta.smtp.client_commands import Capabilities, Transaction

#: RFC 6531 §3.5, X.6.7.
_NO_SMTPUTF8_ADDRESS: Final = Reply(553, "5.6.7", "the address is not ASCII, and the next host has no SMTPUTF8")
_NO_SMTPUTF8_HEADER: Final = Reply(550, "5.6.7", "the header is not ASCII, and the next host has no SMTPUTF8")
#: RFC 6152 §3: a mail that is neither taken nor converted is refused; X.6.3 of RFC 3463 §3.7.
_NO_8BITMIME: Final = Reply(554, "5.6.3", "the mail holds 8-bit octets, and the next host has no 8BITMIME")


def objection(transaction: Transaction, offered: Capabilities, *, unicode_header: bool) -> Reply | None:
    """Why no recipient of this mail can go to a host with these capabilities, None if nothing speaks against it.

    `unicode_header` is True for a mail declared SMTPUTF8 whose header holds octets over 127.
    """
    envelope = transaction.envelope
    if offered.size_limit is not None and transaction.size > offered.size_limit:
        text = f"the mail has {transaction.size} octets, the next host takes {offered.size_limit}"
        return Reply(552, "5.3.4", text)
    if not offered.smtputf8:
        if envelope.reverse_path is not None and not envelope.reverse_path.is_ascii:
            return _NO_SMTPUTF8_ADDRESS
        if unicode_header:
            return _NO_SMTPUTF8_HEADER
    if transaction.eight_bit and not offered.eight_bit_mime:
        return _NO_8BITMIME
    return None


def recipient_objection(address: Address, offered: Capabilities) -> Reply | None:
    """Why this one recipient cannot go there."""
    return None if offered.smtputf8 or address.is_ascii else _NO_SMTPUTF8_ADDRESS
