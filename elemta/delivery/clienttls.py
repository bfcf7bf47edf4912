"""The client's side of TLS: contexts for handshakes with the hosts of a route.

What is not here: whether TLS is wanted, or what follows when it fails (`delivery.tlspolicy`), deadlines (the caller's).
RFC 9325 §3.1.1 is the versions of a channel that somebody relies on, RFC 7435 §3 says why an opportunistic one takes
what there is. Certificates are checked by OpenSSL against the host's name (RFC 9525).
Failures raised: `tls.stream.HandshakeFailed`; `OSError` for authorities that cannot be read.
"""

import ssl
import warnings
from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

import trio
from attrs import frozen

from elemta.net.base import Stream
from elemta.runtime.threads import Threads
from elemta.tls.stream import TlsStream, connect_tls

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Handshakes in threads at once: their step in a thread takes about a millisecond of a processor.
HANDSHAKE_THREADS: Final = 4

#: OpenSSL's words: every cipher it was built with but those that encrypt nothing, at the security level that still
#: takes 1024-bit keys. What is not verified is not made safer by refusing it; the alternative is plain text (RFC 7435).
_OPPORTUNISTIC_CIPHERS: Final = "DEFAULT:@SECLEVEL=0"


def verifying_context(ca_file: str) -> ssl.SSLContext:
    """A context that takes good certificates alone, by `ca_file` (PEM), or the system's authorities where it is empty.

    Reads files. Raises `OSError`, `ssl.SSLError` among them.
    """
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def trusting_context(*, opportunistic: bool) -> ssl.SSLContext:
    """A context that takes any certificate; with `opportunistic` any version and cipher as well."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if opportunistic:
        with warnings.catch_warnings():  # that RFC 8996 ended these versions is known; plain text would be the choice
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
        context.set_ciphers(_OPPORTUNISTIC_CIPHERS)
    return context


@frozen
class Trust:
    """Which certificates are taken.

    With `verify` good ones by `ca_file` (the system's authorities where it is empty), else any; with `opportunistic`
    old versions and weak ciphers as well.
    """

    verify: bool = False
    opportunistic: bool = False
    ca_file: str = ""


class ClientTls:
    """One context for each purpose, made when it is first needed; at most one for each CA file in the configuration."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._limiter = trio.CapacityLimiter(HANDSHAKE_THREADS)
        self._trusting: dict[bool, ssl.SSLContext] = {}
        self._verifying: dict[str, ssl.SSLContext] = {}

    async def connect(self, stream: Stream, trust: Trust, *, server_name: str) -> TlsStream:
        """Shake hands with a host. Raises `HandshakeFailed`, `OSError`; nothing is left open then, nor by a cancel."""
        try:
            context = await self._context(trust)
        except BaseException:
            stream.abort()
            raise
        # An address is nothing to ask for by SNI (RFC 6066 §3), but a certificate may hold it: `ssl` knows both.
        name = server_name.removeprefix("[").removesuffix("]")
        return await connect_tls(stream, context, server_name=name, threads=self._threads, limiter=self._limiter)

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call what takes a processor for long, such as the hashing of SCRAM, in one of the handshakes' threads."""
        return await self._threads.run(self._limiter, function, *args)

    async def _context(self, trust: Trust) -> ssl.SSLContext:
        if not trust.verify:
            return self._trusting_context(trust.opportunistic)
        found = self._verifying.get(trust.ca_file)
        if found is None:
            found = await self._threads.run(self._limiter, verifying_context, trust.ca_file)
            self._verifying[trust.ca_file] = found
        return found

    def _trusting_context(self, opportunistic: bool) -> ssl.SSLContext:
        if opportunistic not in self._trusting:
            self._trusting[opportunistic] = trusting_context(opportunistic=opportunistic)
        return self._trusting[opportunistic]
