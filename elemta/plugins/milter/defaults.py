"""Which macros a filter is sent at each stage, unless it asks for others; pure.

What is not here: their values (`milter.macros`). The choice is that of Sendmail's `Milter.macros` defaults, with what
Postfix adds (MILTER_README, "Milter macros"); a filter changes it by `smfi_setsymlist`.
"""

from collections.abc import Mapping
from typing import Final

from elemta.plugins.milter.wire import Stage

DEFAULTS: Final[Mapping[Stage, tuple[str, ...]]] = {
    Stage.CONNECT: (
        "j", "_", "v", "{daemon_name}", "{daemon_addr}", "{daemon_port}", "{if_name}", "{if_addr}",
        "{client_name}", "{client_ptr}", "{client_resolve}", "{client_addr}", "{client_port}",
    ),
    Stage.HELO: ("{tls_version}", "{cipher}"),
    Stage.MAIL: ("i", "{auth_type}", "{auth_authen}", "{mail_mailer}", "{mail_host}", "{mail_addr}"),
    Stage.RCPT: ("{rcpt_mailer}", "{rcpt_host}", "{rcpt_addr}"),
    Stage.DATA: ("i",),
    Stage.END_OF_HEADER: ("i",),
    Stage.END_OF_BODY: ("i",),
}  # fmt: skip
