"""Scripted hosts that speak TLS and take logins.

What is not here: assertions, the hosts without (`tests.delivery.scripted`). Certificates come from an authority of this
module's own.
"""

import base64
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime

import scramp
import trio
import trustme
from attrs import define, field

from elemta.config.sections import RouteTls, TimeoutsSection
from elemta.delivery.clienttls import ClientTls
from elemta.delivery.credentials import Login
from elemta.delivery.pool import ConnectionPool
from elemta.delivery.session import ClientSecurity
from elemta.delivery.tlspolicy import TlsPolicy
from elemta.runtime.threads import InlineThreads
from tests.delivery.scripted import EVERYTHING, Conversation, Host, World, world

USER, PASSWORD = "relay@example.org", "pässword, with = and ,"
LOGIN = Login(USER, PASSWORD)

AUTHORITY = trustme.CA()
LONG_AGO, LESS_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)


def context_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """The context of a server that shows a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


#: What the hosts show, by what is the matter with it.
GOOD = context_of(AUTHORITY.issue_cert("mx1.example.net", "mx2.example.net", "192.0.2.1"))
WRONG_NAME = context_of(AUTHORITY.issue_cert("other.example.net"))
EXPIRED = context_of(AUTHORITY.issue_cert("mx1.example.net", not_before=LONG_AGO, not_after=LESS_LONG_AGO))
UNKNOWN = context_of(trustme.CA().issue_cert("mx1.example.net"))

STARTTLS = (*EVERYTHING, "STARTTLS")
AUTH = "AUTH PLAIN LOGIN SCRAM-SHA-256"


@define(eq=False)
class SecureHost(Host):
    """A host with TLS behind STARTTLS, or before everything with `implicit`.

    `secure_extensions` are offered over TLS. `garbage` is said instead of a handshake, `injected` in the same segment
    as the 220 to STARTTLS; `stalls` says nothing more behind it.
    """

    extensions: tuple[str, ...] = STARTTLS
    secure_extensions: tuple[str, ...] = EVERYTHING
    tls: ssl.SSLContext = GOOD
    implicit: bool = False
    garbage: bytes = b""
    injected: bytes = b""
    stalls: bool = False
    names: list[str | None] = field(factory=list)
    #: The octets of each connection that came in clear.
    heard: list[bytearray] = field(factory=list)
    #: Who logged in, and by what.
    logins: list[tuple[str, str]] = field(factory=list)
    #: The iterations of SCRAM, whether the host shows that it knows the password, whether what it shows is right.
    rounds: int = 4096
    shows: bool = True
    honest: bool = True

    def converse(self, stream: trio.abc.HalfCloseableStream) -> Conversation:
        return _SecureConversation(self, stream)


class _SecureConversation(Conversation):
    def __init__(self, host: SecureHost, stream: trio.abc.HalfCloseableStream) -> None:
        self.secure_host = host
        self.is_secure = False
        host.heard.append(bytearray())
        super().__init__(host, _Listening(stream, host.heard[-1]))

    async def run(self) -> None:
        if self.secure_host.implicit:
            await self.shake_hands()
        await super().run()

    async def obey(self, line: str, verb: str) -> None:
        host = self.secure_host
        if verb == "STARTTLS":
            await self.start_tls()
        elif verb == "AUTH":
            await self.log_in(line.split(" "))
        elif verb in ("EHLO", "LHLO"):
            offered = host.secure_extensions if self.is_secure else host.extensions
            await self.answer(verb, "\r\n".join(["250-mx.example", *(f"250-{each}" for each in offered), "250 HELP"]))
        else:
            await super().obey(line, verb)

    async def start_tls(self) -> None:
        host = self.secure_host
        granted = await self.answer("STARTTLS", "220 2.0.0 go ahead" + host.injected.decode("latin-1"))
        if not granted.startswith("220"):
            return
        if host.stalls:
            await trio.sleep_forever()
        await self.shake_hands()

    async def shake_hands(self) -> None:
        host = self.secure_host
        if host.garbage:
            await self.stream.send_all(host.garbage)
            await trio.sleep_forever()
        host.commands.append("<TLS>")
        host.tls.sni_callback = lambda _, name, __: host.names.append(name)
        stream = trio.SSLStream(self.stream, host.tls, server_side=True, https_compatible=True)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(self.stream)
            raise
        self.stream = stream
        self.is_secure = True
        self.buffer = b""

    # ---- AUTH

    async def log_in(self, words: Sequence[str]) -> None:
        mechanism = words[1]
        initial = base64.b64decode(words[2]) if len(words) > 2 else None
        known = {"PLAIN": self.plain, "LOGIN": self.login, "SCRAM-SHA-256": self.scram}[mechanism]
        user = await known(initial)
        if user is not None:
            self.secure_host.logins.append((mechanism, user))
        await self.answer("AUTH", "235 2.7.0 welcome" if user else "535 5.7.8 no")

    async def ask(self, challenge: bytes) -> bytes:
        await self.say(b"334 " + base64.b64encode(challenge) + b"\r\n")
        line = (await self.until(b"\r\n")).decode()
        self.host.commands.append(line)
        return base64.b64decode(line) if line != "*" else b"*"

    async def plain(self, initial: bytes | None) -> str | None:
        words = await self.ask(b"") if initial is None else initial
        _, user, password = words.decode().split("\0")
        return user if (user, password) == (USER, PASSWORD) else None

    async def login(self, initial: bytes | None) -> str | None:
        user = (await self.ask(b"Username:")).decode()
        password = (await self.ask(b"Password:")).decode()
        return user if (user, password) == (USER, PASSWORD) else None

    async def scram(self, initial: bytes | None) -> str | None:
        assert initial is not None
        mechanism = scramp.ScramMechanism("SCRAM-SHA-256")
        known = mechanism.make_auth_info(PASSWORD, iteration_count=4096)
        server = mechanism.make_server(lambda user: known)
        server.set_client_first(initial.decode())
        first = server.get_server_first().replace("i=4096", f"i={self.secure_host.rounds}")
        answer = await self.ask(first.encode())
        if answer == b"*":
            return None
        try:
            server.set_client_final(answer.decode())
        except scramp.ScramException:
            return None
        final = server.get_server_final() if self.secure_host.honest else "v=" + "A" * 43 + "="
        if self.secure_host.shows and await self.ask(final.encode()) != b"":
            return None
        return USER


class _Listening(trio.abc.HalfCloseableStream):
    """A stream that keeps what came."""

    def __init__(self, inner: trio.abc.HalfCloseableStream, heard: bytearray) -> None:
        self._inner = inner
        self._heard = heard

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._inner.receive_some(max_bytes))
        self._heard += data
        return data

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()


class OurAuthority(ClientTls):
    """Trusts the authority of this module, without a file."""

    def __init__(self) -> None:
        super().__init__(InlineThreads())
        context = ssl.create_default_context(cadata=AUTHORITY.cert_pem.bytes().decode())
        self._verifying[""] = context


def security(demand: RouteTls, *, implicit: bool = False, login: Login | None = None, name: str = "") -> ClientSecurity:
    """What a route asks for, with our own authority."""
    return ClientSecurity(TlsPolicy(demand, implicit), OurAuthority(), name, "", login)


def secure_world(
    nursery: trio.Nursery,
    *hosts: Host | None,
    asks: ClientSecurity,
    timeouts: TimeoutsSection | None = None,
    pool: ConnectionPool | None = None,
) -> World:
    """As `scripted.world`."""
    return world(nursery, *hosts, timeouts=timeouts, pool=pool, security=asks)
