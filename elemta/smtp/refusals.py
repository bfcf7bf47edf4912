"""Every reply that the server machine gives by itself.

What is not here: the replies of policy (`inbound`), or when these are given (`smtp.server`, `smtp.commands`).
Codes are from RFC 5321 §4.2.3, enhanced ones from RFC 3463 and from the RFC of the extension concerned.
"""

from collections.abc import Mapping
from typing import Final

from elemta.mail.reply import Reply
from elemta.smtp.content import Fault

# ---- the session ---------------------------------------------------------------------------------

GOODBYE: Final = Reply(221, "2.0.0", "Goodbye")
RESET_DONE: Final = Reply(250, "2.0.0", "Reset")
NOTHING_DONE: Final = Reply(250, "2.0.0", "Nothing done")
#: RFC 5321 §3.5.3: neither confirmed nor denied, so that nobody learns which mailboxes exist.
CANNOT_VERIFY: Final = Reply(252, "2.5.0", "Cannot verify, send some mail and see")
HELP: Final = Reply(
    214,
    "2.0.0",
    ("Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP HELP VRFY QUIT", "They are described in RFC 5321"),
)
NO_SERVICE: Final = Reply(503, "5.5.1", "No service here, please QUIT")
TALKED_BEFORE_GREETING: Final = Reply(554, "5.5.0", "You talked before the greeting")
TALKED_TOO_EARLY: Final = Reply(554, "5.5.0", "You talked before the reply you had to wait for")
NO_HTTP: Final = Reply(502, "5.7.0", "This is a mail server, it speaks SMTP")
TOO_MANY_ERRORS: Final = Reply(421, "4.7.0", "Too many errors, closing")
TOO_MANY_IDLE_COMMANDS: Final = Reply(421, "4.7.0", "Too many commands without a mail, closing")
TOO_MANY_TRANSACTIONS: Final = Reply(421, "4.7.0", "Enough mails for one connection, please open another")

# ---- lines and words -----------------------------------------------------------------------------

#: RFC 5321 §4.2.2: 500 also means that a command line is too long.
LINE_TOO_LONG: Final = Reply(500, "5.5.2", "Command line too long")
ENDLESS_LINE: Final = Reply(421, "4.7.0", "That line has no end, closing")
#: 521 says that the connection will be closed, as Postfix does for the same fault.
BARE_NEWLINE: Final = Reply(521, "5.5.2", "A bare CR or LF is no line end, lines end with CRLF")
UNKNOWN_COMMAND: Final = Reply(500, "5.5.1", "Unknown command")
UNREADABLE_COMMAND: Final = Reply(500, "5.5.2", "Cannot make sense of this command")
NOT_IMPLEMENTED: Final = Reply(502, "5.5.1", "Command not implemented")
NO_ARGUMENT_ALLOWED: Final = Reply(501, "5.5.4", "This command takes no argument")
ARGUMENT_NEEDED: Final = Reply(501, "5.5.4", "This command needs an argument")
BAD_HELLO: Final = Reply(501, "5.5.4", "That is neither a domain nor an address literal")

# ---- sequence ------------------------------------------------------------------------------------

HELLO_FIRST: Final = Reply(503, "5.5.1", "Send EHLO first")
MAIL_FIRST: Final = Reply(503, "5.5.1", "Send MAIL first")
NESTED_MAIL: Final = Reply(503, "5.5.1", "A transaction is open already")
#: RFC 5321 §3.3: 554 where all recipients were refused.
NO_RECIPIENTS: Final = Reply(554, "5.5.1", "No valid recipients")
#: RFC 3030 §2: DATA after BDAT, or any other command than BDAT, RSET or NOOP between chunks.
BETWEEN_CHUNKS: Final = Reply(503, "5.5.1", "Only BDAT or RSET may follow BDAT")
AUTH_FIRST: Final = Reply(530, "5.7.0", "Authentication required")
ALREADY_TLS: Final = Reply(503, "5.5.1", "TLS is active already")
ALREADY_AUTHENTICATED: Final = Reply(503, "5.5.1", "Already authenticated")
NOT_IN_TRANSACTION: Final = Reply(503, "5.5.1", "Not within a mail transaction")

# ---- addresses, parameters -----------------------------------------------------------------------

PATH_NEEDED: Final = Reply(500, "5.5.2", "A path in angle brackets is needed")
BAD_SENDER: Final = Reply(501, "5.1.7", "Malformed sender address")
SENDER_TOO_LONG: Final = Reply(501, "5.1.7", "Sender address too long")
BAD_SENDER_DOMAIN: Final = Reply(501, "5.1.8", "Malformed sender domain")
BAD_RECIPIENT: Final = Reply(501, "5.1.3", "Malformed destination address")
RECIPIENT_TOO_LONG: Final = Reply(501, "5.1.3", "Destination address too long")
BAD_RECIPIENT_DOMAIN: Final = Reply(501, "5.1.2", "Malformed destination domain")
#: RFC 6531 §3.5: 550 to MAIL, 553 to RCPT.
SENDER_NEEDS_SMTPUTF8: Final = Reply(550, "5.6.7", "Say SMTPUTF8 for an address that is not ASCII")
RECIPIENT_NEEDS_SMTPUTF8: Final = Reply(553, "5.6.7", "Say SMTPUTF8 with MAIL for an address that is not ASCII")
#: user%domain@here, host!user@here, "user@domain"@here: RFC 5321 §7.1 and §3.6.1 on relaying, RFC 3463 §3.8.
ROUTED_RECIPIENT: Final = Reply(550, "5.7.1", "Routing within the local part is refused")
UNKNOWN_PARAMETER: Final = Reply(555, "5.5.4", "Parameter not recognised or not offered")
TWICE: Final = Reply(501, "5.5.4", "A parameter stands twice")
BAD_PARAMETER: Final = Reply(501, "5.5.4", "Malformed parameter")
TOO_LARGE: Final = Reply(552, "5.3.4", "Message too big")
TOO_MANY_RECIPIENTS: Final = Reply(452, "4.5.3", "Too many recipients, send the rest in another transaction")

# ---- content -------------------------------------------------------------------------------------

#: RFC 3030 §2 announces the octets of a chunk; without a number nobody knows where the next command begins.
BAD_CHUNK_SIZE: Final = Reply(501, "5.5.4", "BDAT needs the size of the chunk, closing")
CONTENT_REFUSALS: Final[Mapping[Fault, Reply]] = {
    # RFC 5321 §4.5.3.1.6.
    Fault.LONG_LINE: Reply(554, "5.6.0", "A line of the message is longer than 998 octets"),
    # RFC 2045 §2.8: neither 7bit nor 8bit data holds NUL, and binary data is not offered.
    Fault.NUL: Reply(554, "5.6.0", "The message holds a NUL octet"),
    Fault.TOO_LARGE: TOO_LARGE,
    Fault.BARE_NEWLINE: BARE_NEWLINE,
}

# ---- authentication, RFC 4954 §4 and §6 ----------------------------------------------------------

#: §4: 504 also where encryption is required; 538 is history, §6.
TLS_NEEDED: Final = Reply(504, "5.5.4", "Offered under TLS only, STARTTLS first")
UNKNOWN_MECHANISM: Final = Reply(504, "5.5.4", "Mechanism not offered")
AUTH_LINE_TOO_LONG: Final = Reply(500, "5.5.6", "Authentication exchange line too long")
BAD_BASE64: Final = Reply(501, "5.5.2", "Cannot decode that, it is no base64")
