"""The mechanisms by name.

What is not here: which of them a connection is offered (`inbound`). Failures raised: `KeyError` for a name that is not
in `MECHANISMS`, a mistake of the driver.
"""

from collections.abc import Callable, Mapping
from typing import Final

from elemta.auth.sasl.base import Circumstances, Exchange
from elemta.auth.sasl.login import Login
from elemta.auth.sasl.oauthbearer import OAuthBearer
from elemta.auth.sasl.plain import Plain
from elemta.auth.sasl.scram import Scram
from elemta.auth.sasl.xoauth2 import XOAuth2

MECHANISMS: Final[Mapping[str, Callable[[Circumstances], Exchange]]] = {
    "PLAIN": lambda _: Plain(),
    "LOGIN": lambda _: Login(),
    "OAUTHBEARER": OAuthBearer,
    "XOAUTH2": XOAuth2,
    "SCRAM-SHA-256": lambda circumstances: Scram(circumstances, plus=False),
    "SCRAM-SHA-256-PLUS": lambda circumstances: Scram(circumstances, plus=True),
}


def begin(mechanism: str, circumstances: Circumstances) -> Exchange:
    """A new exchange of a mechanism. Raises `KeyError` for a mechanism that is none of ours."""
    return MECHANISMS[mechanism](circumstances)
