"""What all scanners share: their bounds, their connections.

What is not here: what is said (`scanners.spamd`, `scanners.clamd`, `scanners.checkv2`), or what follows from an answer
(`scanners.policy`). A mail goes to its scanner piece by piece as it comes from memory or disk, never as a whole.
Failure raised: `ScannerFailed`, whose text names the scanner; the chain makes of it what `on_error` says.
"""

import contextlib
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final, Protocol, TypeVar

import trio
from attrs import frozen

from elemta.config.addresses import parse_listen_address
from elemta.net.base import Endpoint
from elemta.plugins.api import Annotate, Continue, Host, Mail, Plugin, Verdict
from elemta.plugins.dialing import Unreached, connect
from elemta.plugins.scanners.failure import ScannerFailed

#: Scans of one scanner at once; further mails wait, which counts as the scanner's time. Ours: many times what spamd (5)
#: and clamd (10) do side by side, and their own queues (clamd.conf(5): MaxQueue 100) hold the rest.
MAX_SCANS: Final = 100

T = TypeVar("T")
Pipe = trio.abc.Stream


class ScannerSection(Protocol):
    """What the configuration says of every scanner; see `config.scanners`."""

    @property
    def address(self) -> str: ...
    @property
    def timeout(self) -> float: ...
    @property
    def scan_limit(self) -> int: ...


class Scanner(Plugin, ABC):
    """A plugin that has each whole mail read by another program. Its own time is `timeout`, which says more than the
    chain's deadline: that one should be longer."""

    #: The scanner in annotations, and in the sentences of failures.
    name: ClassVar[str]

    def __init__(self, host: Host, settings: Any, section: ScannerSection) -> None:
        super().__init__(host, settings)
        self._section = section
        self._turns = trio.CapacityLimiter(MAX_SCANS)

    @abstractmethod
    async def scan(self, mail: Mail) -> Verdict:
        """Have one mail read. Raises `ScannerFailed`, whose text need not name the scanner."""

    async def on_data_complete(self, mail: Mail) -> Verdict:
        section, octets = self._section, mail.content.size
        if octets > section.scan_limit:
            return Continue((Annotate(self.name, f"not scanned: {octets} octets, scan_limit is {section.scan_limit}"),))
        try:
            with trio.fail_after(section.timeout):
                async with self._turns:
                    return await self.scan(mail)
        except trio.TooSlowError:
            raise ScannerFailed(f"{self.name} at {section.address}: no answer within {section.timeout:g} s") from None
        except ScannerFailed as failure:
            raise ScannerFailed(f"{self.name} at {section.address}: {failure}") from None


@frozen
class Service:
    """Where a scanner listens, and how long to try. `tls` is set where it is spoken."""

    where: Endpoint
    seconds: float
    tls: ssl.SSLContext | None = None


def service_of(section: ScannerSection) -> Service:
    """The service at `host:port`, `[v6]:port` or `unix:/path`."""
    address = parse_listen_address(section.address)
    return Service(Endpoint(address.path or address.host, address.port), section.timeout)


async def ask(
    host: Host, service: Service, *, say: Callable[[Pipe], Awaitable[None]], hear: Callable[[bytes], T | None]
) -> T:
    """Connect, `say` everything, then let `hear` have what comes until it has an answer. Raises `ScannerFailed`.

    One connection a scan: so do spamc and clamdscan, and rspamd hangs up behind its answer.
    """
    try:
        below = await connect(host, service.where, seconds=service.seconds)
    except Unreached as error:
        raise ScannerFailed(f"cannot connect: {error}") from error
    try:
        stream = below if service.tls is None else await _encrypted(below, service.tls, service.where.host)
        with contextlib.suppress(trio.BrokenResourceError):  # hung up in the middle; what it said before tells why
            await say(stream)
        while True:
            answer = hear(bytes(await stream.receive_some()))
            if answer is not None:
                return answer
    except trio.BrokenResourceError as error:
        raise ScannerFailed("the connection broke before the answer") from error
    finally:
        below.abort()  # TLS would say goodbye to who may not listen


async def _encrypted(below: Pipe, context: ssl.SSLContext, name: str) -> Pipe:
    tls = trio.SSLStream(below, context, server_hostname=name, https_compatible=True)
    try:
        await tls.do_handshake()
    except trio.BrokenResourceError as error:
        raise ScannerFailed(f"the TLS handshake failed: {error.__cause__ or error}") from error
    return tls
