"""How a client shows a smarthost who it is: SASL, the client's half.

What is not here: sending it (`delivery.opening`), whether it may be sent (`delivery.tlspolicy`). PLAIN is RFC 4616,
LOGIN draft-murchison-sasl-login-00 (it never became an RFC), SCRAM-SHA-256 RFC 5802 with RFC 7677.
Failures raised: `ExchangeFailed`, for a host that breaks the mechanism or does not know our password itself.
"""

from base64 import b64encode
from typing import Any, Final, Protocol

from attrs import evolve, field, frozen

from elemta.mail.reply import Reply

#: What is offered first is taken first: the password crosses the wire with the last two, LOGIN is the obsolete one.
PREFERENCE: Final = ("SCRAM-SHA-256", "PLAIN", "LOGIN")

#: Rounds of PBKDF2 that a host may ask for: a second of a processor. RFC 7677 §4 asks for 4,096 at least, OWASP's
#: password storage cheat sheet (2023) for 600,000.
MAX_SCRAM_ROUNDS: Final = 2_000_000

#: Characters of a failure's text that are kept: it goes into replies and the log.
_SHOWN_CHARACTERS: Final = 120

#: What stands in a reply in place of a secret.
HIDDEN: Final = "[hidden]"

#: Octets of a command line that every host takes with its CRLF, RFC 5321 §4.5.3.1.4; RFC 4954 §4 keeps an initial
#: response that does not fit out of it.
MAX_COMMAND_OCTETS: Final = 512


@frozen
class Login:
    """Whom to log in as. With `unverified` the password is sent whoever answers.

    `mechanism` is the only one to be used; empty for the strongest that is offered.
    """

    username: str
    password: str = field(repr=False)
    unverified: bool = False
    mechanism: str = ""

    def hidden_in(self, reply: Reply) -> Reply:
        """A host's reply to the login, without our password where it repeats what it was sent."""
        plain = self.password.encode()
        sent = [plain, b"\0" + self.username.encode() + b"\0" + plain]
        secrets = [self.password, *(b64encode(octets).decode() for octets in sent)]
        lines = list(reply.lines)
        for secret in filter(None, secrets):
            lines = [line.replace(secret, HIDDEN) for line in lines]
        return evolve(reply, lines=tuple(lines))


class ExchangeFailed(Exception):
    """The exchange cannot go on; the text says why, without a secret."""


class Exchange(Protocol):
    """One attempt to log in by one mechanism."""

    mechanism: str
    #: Whether its steps take long enough to belong in a thread.
    is_slow: bool

    def initial(self) -> bytes | None:
        """The initial response, RFC 4954 §4; None when the host speaks first."""
        ...

    def respond(self, challenge: bytes) -> bytes:
        """The answer to a challenge. Raises `ExchangeFailed`."""
        ...

    def finish(self) -> None:
        """The host is content. Raises `ExchangeFailed` where it has not shown that it is whom it claims to be."""
        ...


def exchange_for(login: Login, offered: frozenset[str]) -> Exchange | None:
    """An exchange by the strongest mechanism that the host offers; None when it offers none that may be used."""
    for name in PREFERENCE:
        if name in offered and login.mechanism in ("", name):
            return _EXCHANGES[name](login)
    return None


def fits(mechanism: str, initial: bytes) -> bool:
    """Whether an initial response may stand in the line of the AUTH command."""
    base64_octets = (len(initial) + 2) // 3 * 4
    return len(f"AUTH {mechanism} \r\n") + base64_octets <= MAX_COMMAND_OCTETS


class Plain:
    """PLAIN: both words at once, RFC 4616 §2."""

    mechanism = "PLAIN"
    is_slow = False

    def __init__(self, login: Login) -> None:
        self._login = login

    def initial(self) -> bytes:
        """The whole of it."""
        return f"\0{self._login.username}\0{self._login.password}".encode()

    def respond(self, challenge: bytes) -> bytes:
        """Raises `ExchangeFailed`: there is nothing to add."""
        raise ExchangeFailed("the host asks for more than PLAIN has")

    def finish(self) -> None:
        """Nothing was asked of the host."""


class PlainLogin:
    """LOGIN: the name, then the password, whatever the challenges say."""

    mechanism = "LOGIN"
    is_slow = False

    def __init__(self, login: Login) -> None:
        self._left = [login.password.encode(), login.username.encode()]

    def initial(self) -> None:
        """The host speaks first."""

    def respond(self, challenge: bytes) -> bytes:
        """The next word. Raises `ExchangeFailed` when both are said."""
        if not self._left:
            raise ExchangeFailed("the host asks for more than LOGIN has")
        return self._left.pop()

    def finish(self) -> None:
        """Nothing was asked of the host."""


class Scram:
    """SCRAM-SHA-256: each side shows that it knows the password, neither says it."""

    mechanism = "SCRAM-SHA-256"
    is_slow = True

    def __init__(self, login: Login) -> None:
        self._login = login
        self._client: Any = None
        self._steps = [self._last, self._proof]
        self._is_shown = False

    def initial(self) -> bytes:
        """The client-first-message, with a fresh nonce."""
        import scramp  # takes a tenth of a second, which no start without such a smarthost pays

        try:
            self._client = scramp.ScramClient([self.mechanism], self._login.username, self._login.password)
            return bytes(self._client.get_client_first().encode())
        except scramp.ScramException:
            # SASLprep refused a character; its own words may hold it, and so a part of the password.
            raise ExchangeFailed("the username or the password holds characters that SCRAM forbids") from None

    def respond(self, challenge: bytes) -> bytes:
        """The client's proof; then nothing, once the host's own signature was right. Raises `ExchangeFailed`."""
        import scramp

        if not self._steps:
            raise ExchangeFailed("the host asks for more than SCRAM has")
        try:
            return self._steps.pop()(challenge.decode())
        except (scramp.ScramException, ValueError) as error:
            raise ExchangeFailed(f"the host broke SCRAM: {_printable(str(error))}") from None

    def _proof(self, challenge: str) -> bytes:
        self._client.set_server_first(challenge)
        rounds = int(self._client.iterations)
        if rounds > MAX_SCRAM_ROUNDS:
            raise ExchangeFailed(f"the host asks for {rounds} rounds of hashing, at most {MAX_SCRAM_ROUNDS} are made")
        return bytes(self._client.get_client_final().encode())

    def _last(self, challenge: str) -> bytes:
        self._client.set_server_final(challenge)
        self._is_shown = True
        return b""

    def finish(self) -> None:
        """Raises `ExchangeFailed` unless the host's signature was right: it may be anyone (RFC 5802 §5)."""
        if not self._is_shown:
            raise ExchangeFailed("the host took the login without showing that it knows the password")


def _printable(text: str) -> str:
    # It may quote what the host said, which may be anything.
    return "".join(char if char.isprintable() else "?" for char in text[:_SHOWN_CHARACTERS])


_EXCHANGES: Final[dict[str, type[Plain] | type[PlainLogin] | type[Scram]]] = {
    each.mechanism: each for each in (Plain, PlainLogin, Scram)
}
