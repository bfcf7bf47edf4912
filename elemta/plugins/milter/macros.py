"""Macros: the words about session, mail, recipient that a filter can look up by name.

What is not here: which are sent when (`milter.defaults`, `milter.machine`), asking DNS (`milter.clients`). Names are
Sendmail's (Sendmail Installation and Operation Guide, "Macros"), with Postfix's `{client_…}` and `{daemon_…}`
(MILTER_README). A macro that we have no value for is not sent: filters take that for empty.
"""

import enum
from typing import Final

from attrs import frozen

from elemta import __version__
from elemta.mail.address import Address
from elemta.mail.trace import address_literal
from elemta.net.base import Endpoint
from elemta.plugins.api import Mail, Session
from elemta.plugins.milter.wire import Family

#: What stands for the way that a mail comes or goes, of which filters are told nothing at this point.
MAILER: Final = "smtp"


class Resolved(enum.Enum):
    """What became of the question for the client's name, in the words of `{client_resolve}`."""

    OK = "OK"
    #: There is no name.
    FAIL = "FAIL"
    #: A name, which does not lead back to the address.
    FORGED = "FORGED"
    #: DNS did not say.
    TEMP = "TEMP"
    #: Nobody asked.
    UNASKED = ""


@frozen
class Names:
    """What the server is called, and the client: `client` is its name where it is known to be true, else its address in
    brackets, as `xxfi_connect` has it; `pointer` is what it calls itself in DNS."""

    hostname: str
    client: str
    pointer: str = ""
    resolved: Resolved = Resolved.UNASKED


def without_dns(hostname: str, client: Endpoint) -> Names:
    """The names where nobody asks DNS."""
    return Names(hostname, "localhost" if client.is_unix else address_literal(client.host))


def family(client: Endpoint) -> Family:
    """What kind of address it has."""
    if client.is_unix:
        return Family.UNIX if client.host else Family.UNKNOWN
    return Family.IPV6 if ":" in client.host else Family.IPV4


def of_session(session: Session, names: Names) -> dict[str, str]:
    """What is known of the session now."""
    client, local = session.client, session.local
    address = "" if client.is_unix else address_literal(client.host)
    return {
        "j": names.hostname,
        # The client's name and its address; once where the address is all that is known.
        "_": names.client if names.client == address or not address else f"{names.client} [{client.host}]",
        "v": f"Elemta {__version__}",
        "{daemon_name}": session.listener,
        "{daemon_addr}": local.host,
        "{daemon_port}": "" if local.is_unix else str(local.port),
        "{if_name}": names.hostname,
        "{if_addr}": "" if local.is_unix else local.host,
        "{client_name}": names.client,
        "{client_ptr}": names.pointer,
        "{client_resolve}": names.resolved.value,
        "{client_addr}": client.host,
        "{client_port}": "" if client.is_unix else str(client.port),
        "{tls_version}": session.tls,
        "{cipher}": session.cipher,
        "{auth_authen}": session.user,
        # Filters look whether it is there at all: OpenDKIM signs mail of authenticated clients by it.
        "{auth_type}": session.mechanism,
    }


def of_mail(mail: Mail, names: Names) -> dict[str, str]:
    """What is known of the mail, and of its session."""
    sender = mail.sender
    return {
        **of_session(mail.session, names),
        "i": mail.id,
        "{mail_mailer}": MAILER,
        "{mail_host}": "" if sender is None else sender.domain,
        "{mail_addr}": "" if sender is None else str(sender),
    }


def of_recipient(mail: Mail, recipient: Address, names: Names) -> dict[str, str]:
    """What is known of one recipient, and of the mail."""
    return {
        **of_mail(mail, names),
        "{rcpt_mailer}": MAILER,
        "{rcpt_host}": recipient.domain,
        "{rcpt_addr}": str(recipient),
    }
