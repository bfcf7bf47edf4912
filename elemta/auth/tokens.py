"""Bearer tokens: the hook by which they are validated.

What is not here: the validator that asks an authorization server (`auth.oauth`), the mechanisms that show tokens
(`auth.sasl`).
"""

from typing import Protocol

from elemta.auth.base import UsersAway


class ValidatorAway(UsersAway):
    """Nobody can say now whether a token is good. The text says why, without the token or another secret."""


class TokenValidator(Protocol):
    """Knows whose a token is."""

    async def owner(self, token: str) -> str | None:
        """The name of the user whom a token stands for; None where it is not good. Raises `ValidatorAway`."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...
