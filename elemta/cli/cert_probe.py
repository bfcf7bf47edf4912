"""One client's look at a listener: does it speak TLS, with which certificate, would a stranger believe it.

What is not here: the command (`cli.cert`). STARTTLS by RFC 3207. Failure raised: `NoTls`, with a sentence for people.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from attrs import frozen
from cryptography import x509

from elemta.net.base import Endpoint, Stream
from elemta.net.sockets import SystemNetwork, split_address
from elemta.tls.certificates import dns_names
from elemta.tls.stream import CertificateRefused, HandshakeFailed, TlsStream, connect_tls

#: Seconds for all of one look: a person waits for it.
LOOK_SECONDS = 15.0
#: Octets of one reply that are read: a reply to EHLO has some hundred.
MOST_REPLY_OCTETS = 64 * 1024
#: Where a server that listens at every address is asked.
_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


class NoTls(Exception):
    """There is no TLS to be had."""


@frozen
class Seen:
    """What a client saw. `trouble` says why a stranger would not believe the certificate, empty when it would."""

    version: str
    cipher: str
    names: tuple[str, ...]
    issuer: str
    until: float
    fingerprint: str
    trouble: str


async def look(address: str, name: str, *, implicit: bool) -> Seen:
    """Look at a listener as a client that asks for `name`. Raises `NoTls`."""
    try:
        with trio.fail_after(LOOK_SECONDS):
            trouble = ""
            try:
                async with _encrypted(address, name, ssl.create_default_context(), implicit=implicit) as stream:
                    return _seen(stream, trouble)
            except CertificateRefused as error:
                trouble = str(error)
            anything = ssl.create_default_context()
            anything.check_hostname = False
            anything.verify_mode = ssl.CERT_NONE
            async with _encrypted(address, name, anything, implicit=implicit) as stream:
                return _seen(stream, trouble)
    except trio.TooSlowError:
        raise NoTls(f"no answer within {LOOK_SECONDS:g} s") from None
    except HandshakeFailed as error:
        raise NoTls(f"the handshake failed: {error}") from error
    except (OSError, trio.BrokenResourceError) as error:
        raise NoTls(f"no connection: {error}") from error


def _seen(stream: TlsStream, trouble: str) -> Seen:
    facts = stream.facts
    certificate = x509.load_der_x509_certificate(facts.peer_certificate)
    return Seen(
        version=facts.version,
        cipher=facts.cipher,
        names=dns_names(certificate),
        issuer=certificate.issuer.rfc4514_string(),
        until=certificate.not_valid_after_utc.timestamp(),
        fingerprint=facts.peer_fingerprint,
        trouble=trouble,
    )


@asynccontextmanager
async def _encrypted(address: str, name: str, context: ssl.SSLContext, *, implicit: bool) -> AsyncIterator[TlsStream]:
    stream = await SystemNetwork().connect(await _endpoint(address))
    try:
        if not implicit:
            await _start_tls(stream)
        encrypted = await connect_tls(stream, context, server_name=name)
        yield encrypted
        await encrypted.aclose()
    finally:
        stream.abort()


async def _endpoint(address: str) -> Endpoint:
    if address.startswith("unix:"):
        return Endpoint(address.removeprefix("unix:"))
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise NoTls(str(error)) from error
    if port == 0:
        raise NoTls("the system chose its port; name the address: elemta cert test HOST:PORT")
    rows = await trio.socket.getaddrinfo(_LOOPBACK.get(host, host), port, type=trio.socket.SOCK_STREAM)
    return Endpoint(str(rows[0][4][0]), port)


async def _start_tls(stream: Stream) -> None:
    await _reply(stream, "2", "greeted us with")
    await stream.send_all(b"EHLO localhost\r\n")
    offered = await _reply(stream, "2", "answered EHLO with")
    if not any(line[4:].strip().upper() == "STARTTLS" for line in offered):
        raise NoTls("it does not offer STARTTLS")
    await stream.send_all(b"STARTTLS\r\n")
    await _reply(stream, "2", "answered STARTTLS with")


async def _reply(stream: Stream, wanted: str, did: str) -> list[str]:
    """The lines of a reply, which must begin with `wanted`. Raises `NoTls`."""
    heard = b""
    while True:
        *lines, rest = heard.split(b"\r\n")
        if lines and lines[-1][3:4] != b"-" and not rest:
            break
        data = await stream.receive_some()
        if not data or len(heard) > MOST_REPLY_OCTETS:
            raise NoTls("it closed the connection before TLS began" if not data else "its reply does not end")
        heard += data
    found = [line.decode("ascii", "replace") for line in lines]
    if not found[0].startswith(wanted):
        raise NoTls(f'it {did} "{found[-1]}"')
    return found
