"""What one listener offers its clients, together with what it bears from them.

What is not here: who may relay, which recipients exist, how long a client may take (`inbound`).
"""

from typing import Final

from attrs import frozen

#: RFC 1870 §4 leaves the limit to the server; 25 MiB is what large providers take.
DEFAULT_MAX_SIZE_OCTETS: Final = 25 * 1024 * 1024
#: RFC 5321 §4.5.3.1.8 asks for at least 100.
DEFAULT_MAX_RECIPIENTS: Final = 1000
#: Postfix gives up after 20 (`smtpd_hard_error_limit`), chasquid after 3.
DEFAULT_MAX_ERRORS: Final = 10
#: Postfix slows down after 100 (`smtpd_junk_command_limit`).
DEFAULT_MAX_IDLE_COMMANDS: Final = 100
#: A sender that keeps its connection for more mails than this may open another one.
DEFAULT_MAX_TRANSACTIONS: Final = 10_000


@frozen
class ServerOptions:
    """One listener's options, shared by all its connections.

    `hostname` names us in the answer to EHLO. `max_size` is octets, 0 for no limit (RFC 1870 §4).
    """

    hostname: str
    max_size: int = DEFAULT_MAX_SIZE_OCTETS
    max_recipients: int = DEFAULT_MAX_RECIPIENTS
    #: Refused commands since the session began or its last accepted mail; one more is answered 421.
    max_errors: int = DEFAULT_MAX_ERRORS
    #: Commands that move no mail, counted like errors.
    max_idle_commands: int = DEFAULT_MAX_IDLE_COMMANDS
    #: Transactions of one session; one more MAIL is answered 421.
    max_transactions: int = DEFAULT_MAX_TRANSACTIONS
    #: XDEBUG is known in dev mode only.
    dev_mode: bool = False
    #: For trusted clients: a bare CR or LF becomes CRLF, instead of refusing the mail.
    bare_newlines_normalize: bool = False
    #: Close on a client that talks past a command whose reply it must wait for, RFC 2920 §3.1.
    forbid_early_talk: bool = True
    starttls: bool = False
    #: Upper-case names of SASL mechanisms; none means that AUTH is not offered.
    auth_mechanisms: tuple[str, ...] = ()
    #: For connections that never leave this machine: AUTH may be offered in the clear.
    auth_without_tls: bool = False
    #: MAIL is answered 530 until somebody has authenticated, RFC 4954 §6.
    auth_required: bool = False
    #: Offer REQUIRETLS once TLS is active, RFC 8689 §3.
    require_tls_offered: bool = False
