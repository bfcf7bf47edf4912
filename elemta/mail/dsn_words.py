"""What a delivery report says to people.

What is not here: the report's format (`mail.dsn`), or who gets one (`queue.bounce`).
The reader wrote a mail and is no mail expert: first what happened, then for each recipient the other side's own words,
then what can be done about it.
"""

from attrs import frozen

from elemta.mail.dsn import MAX_ADDRESS_OCTETS, REPLY_OCTETS, Action, RecipientReport, clip, host_name, wrap
from elemta.mail.outcome import NO_PEER
from elemta.mail.trace import address_literal, format_date

#: Octets of the reported mail's subject that are shown. Ours: enough to recognise it by.
MAX_SUBJECT_OCTETS = 200

_SUBJECTS = {
    Action.FAILED: "Your mail could not be delivered",
    Action.DELAYED: "Your mail is delayed",
    Action.RELAYED: "Your mail was passed on",
    Action.EXPANDED: "Your mail was passed on to a list",
    Action.DELIVERED: "Your mail was delivered",
}

_HAPPENED = {
    Action.FAILED: (
        "Your mail could not be delivered to the recipients below. It will not be tried again for them;"
        " recipients that are not named here are not concerned."
    ),
    Action.DELAYED: (
        "Your mail has not been delivered to the recipients below yet. You need not do anything: it is tried again by"
        " itself, and you will be told should that fail for good."
    ),
    Action.RELAYED: (
        "Your mail was passed on for the recipients below, to a mail server that sends no confirmations. You asked to"
        " be told when it is delivered; no more will be heard about these unless it fails."
    ),
    Action.EXPANDED: (
        "Your mail was passed on to all members of the lists below. You asked to be told when it is delivered; no more"
        " will be heard about these."
    ),
    Action.DELIVERED: "Your mail was delivered to the mailboxes of the recipients below, as you asked to be told.",
}

#: What can be done about a failure, by the beginning of its status (RFC 3463 §3); the first that fits.
_REMEDIES = (
    ("5.4.7", "the time for delivering this mail is over. Send it again later, or reach the recipient another way."),
    ("5.1.8", "your own address was refused. Check it in your mail program, or ask your postmaster."),
    ("5.1.7", "your own address was refused. Check it in your mail program, or ask your postmaster."),
    ("5.1.", "check the address: it may be misspelt, or exist no more."),
    ("5.2.2", "the mailbox is full. Reach the recipient another way, and send your mail again later."),
    ("5.2.3", "your mail is too large for this recipient. Send less of it, or a link to it."),
    ("5.3.4", "your mail is too large for this recipient. Send less of it, or a link to it."),
    ("5.4.6", "the mail went round in circles. Only the recipient's postmaster can mend that: quote the words above."),
    ("5.6.", "the form or the content of your mail was not taken. Send it in another form, for example as plain text."),
    (
        "5.7.",
        "a rule of the recipient's side refused your mail. Ask the recipient another way, quoting the words above.",
    ),
    ("", "ask the recipient's postmaster, quoting the words above."),
)

_UNCERTAIN = (
    "The connection was lost after your mail had been sent, before it was confirmed: it may have arrived, even more"
    " than once. Ask the recipient before you send it again."
)


@frozen
class MailWords:
    """What the text tells of the reported mail: its subject (made readable), its id, when it came, to which host."""

    subject: str
    mail_id: str
    arrived_at: float
    hostname: str


def subject_for(action: Action) -> str:
    """The subject of a report."""
    return _SUBJECTS[action]


def text_for(
    action: Action, mail: MailWords, *, recipients: tuple[RecipientReport, ...], reply_octets: int = REPLY_OCTETS
) -> str:
    """The text of a report, with `\\n` after each line. `recipients` all met the same `action`."""
    lines = [*wrap(f"This is the mail server {host_name(mail.hostname)}."), ""]
    lines += [*wrap(_HAPPENED[action]), ""]
    if mail.subject:
        lines += wrap(f"Subject: {clip(mail.subject, MAX_SUBJECT_OCTETS)}", indent="    ")
    lines += [f"    Received: {format_date(mail.arrived_at)}", f"    Id: {host_name(mail.mail_id)}", ""]
    for entry in recipients:
        lines += [*_about(entry, reply_octets), ""]
    lines += wrap("The parts that follow hold the same for programs, then your mail or the beginning of it.")
    return "".join(f"{line}\n" for line in lines)


def _about(entry: RecipientReport, reply_octets: int) -> list[str]:
    lines = [f"<{clip(str(entry.address), MAX_ADDRESS_OCTETS)}>"]
    lines += wrap(_speaker(entry), indent="    ")
    lines += wrap(clip(str(entry.reply), reply_octets), indent="        ")
    if entry.uncertain:
        lines += wrap(_UNCERTAIN, indent="    ")
    elif entry.action is Action.FAILED:
        lines += wrap(f"What you can do: {_remedy(entry.status)}", indent="    ")
    if entry.action is Action.DELAYED and entry.will_retry_until is not None:
        lines.append(f"    Tried until: {format_date(entry.will_retry_until)}")
    return lines


def _speaker(entry: RecipientReport) -> str:
    peer = entry.peer
    if peer == NO_PEER:
        return "This server says:"
    names = (peer.host, address_literal(peer.address) if peer.address else "")
    return f"The last word about it, from {host_name(' '.join(name for name in names if name))}:"


def _remedy(status: str) -> str:
    # A failure may carry a transient status (RFC 3464 §2.3.4); the remedy goes by what failed, not by how long.
    permanent = f"5{status[1:]}"
    return next(remedy for beginning, remedy in _REMEDIES if permanent.startswith(beginning))
