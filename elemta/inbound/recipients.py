"""The answer to RCPT.

What is not here: its rules (`inbound.policy`), or who is local (`Recipients`). Failures raised: none of anybody's.
"""

from attrs import evolve

from elemta.inbound import policy
from elemta.inbound.transaction import Services, Transaction
from elemta.mail.address import Address
from elemta.mail.envelope import Recipient
from elemta.mail.reply import Reply
from elemta.plugins.api import Stage


async def answer(services: Services, transaction: Transaction, recipient: Recipient, *, may_relay: bool) -> Reply:
    """Decide about a recipient; one that is taken is the transaction's with this."""
    options = services.options
    address = policy.complete_address(options, recipient.address)
    ruling = policy.rule_recipient(options, address, may_relay=may_relay)
    if ruling is policy.Ruling.LOOK_UP:
        reply = await _look_up(services, address)
    else:
        reply = policy.RECIPIENT_OK if ruling is policy.Ruling.ACCEPT else policy.RELAY_DENIED
    if reply.code != 250:
        return reply
    complete = recipient if address is recipient.address else evolve(recipient, address=address)
    if transaction.plugged is not None:
        refusal = await transaction.plugged.refusal(Stage.RCPT_TO, complete)
        if refusal is not None:
            return refusal
    transaction.add_recipient(complete)
    return reply


async def _look_up(services: Services, address: Address) -> Reply:
    try:
        exists = await services.recipients.exists(address)
    except OSError:
        return policy.LOOKUP_FAILED
    return policy.RECIPIENT_OK if exists else policy.NO_SUCH_USER
