"""Reads the header in which a proxy tells whose connection it passes on.

The PROXY protocol, versions 1 and 2: HAProxy's `proxy-protocol.txt`, §2.1 and §2.2. What is not here: whom to believe
it, how long to wait for it (`inbound.proxied`), or the connection (`net.proxied`).
Where the document leaves a choice: UDP is refused, over which nobody speaks SMTP; a checksum is verified where there is
one; what else a header holds is skipped. Stricter than it: a port of 0 is refused, since no connection has one
(RFC 6335 §6); a loopback address counts as one only when the proxy is on this machine.
Failure raised: `BadProxyHeader`.
"""

import enum
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from attrs import frozen

from elemta.net.base import Endpoint
from elemta.net.networks import is_local

#: Octets of the longest line of version 1 with its CRLF: the document's own reckoning, §2.1.
MAX_LINE_OCTETS: Final = 107
#: Octets behind the fixed part of version 2. Addresses take 36, a unix path 216; what clouds and HAProxy add (names of
#: TLS, a certificate's, ids) some hundred. The field could say 65,535.
MAX_BLOCK_OCTETS: Final = 4096

_LINE: Final = b"PROXY "
_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
#: Signature, version with command, address family with transport, octets that follow.
_FIXED: Final = struct.Struct("!12sBBH")
_VERSION: Final = 2

#: Octets of the longest header of either version: nobody needs to be heard further.
MAX_HEADER_OCTETS: Final = _FIXED.size + MAX_BLOCK_OCTETS

#: Type and length of an additional field of version 2, §2.2.7.
_FIELD: Final = struct.Struct("!BH")
#: PP2_TYPE_CRC32C, §2.2.3.
_CHECKSUM_TYPE: Final = 0x03
_CHECKSUM_OCTETS: Final = 4


class BadProxyHeader(Exception):
    """This is no header, or none that can be believed. The text says why in our own words."""


@frozen
class ProxiedEnds:
    """The connection that the proxy passes on, as its client and the proxy saw it."""

    source: Endpoint
    destination: Endpoint


@frozen
class ProxyHeader:
    """A header. `octets` is its length; what comes behind is the client's."""

    octets: int
    #: None where the proxy speaks for itself, as in its checks, or does not know an address.
    ends: ProxiedEnds | None = None


class _Command(enum.IntEnum):
    LOCAL = 0
    PROXY = 1


class _Family(enum.IntEnum):
    """Family and transport, and all of them that may come over a stream."""

    UNKNOWN = 0x00
    TCP4 = 0x11
    TCP6 = 0x21
    UNIX = 0x31


#: How the addresses of a family are written: source, destination, and their ports but for unix paths.
_ADDRESSES: Final = {
    _Family.TCP4: struct.Struct("!4s4sHH"),
    _Family.TCP6: struct.Struct("!16s16sHH"),
    _Family.UNIX: struct.Struct("!108s108s"),
}


def parse_header(heard: bytes | bytearray) -> ProxyHeader | None:
    """The header that a connection begins with; None while it is not whole. Raises `BadProxyHeader`.

    `heard` is everything since the connection's first octet. `MAX_HEADER_OCTETS` of it always suffice.
    """
    if heard.startswith(_LINE):
        return _parse_line(heard)
    if heard.startswith(_SIGNATURE):
        return _parse_binary(heard) if len(heard) >= _FIXED.size else None
    if _LINE.startswith(heard) or _SIGNATURE.startswith(heard):
        return None
    raise BadProxyHeader("it begins with something else than a PROXY header")


# ---- version 1 -----------------------------------------------------------------------------------


def _parse_line(heard: bytes | bytearray) -> ProxyHeader | None:
    end = heard.find(b"\r\n", 0, MAX_LINE_OCTETS)
    if end < 0:
        if len(heard) >= MAX_LINE_OCTETS:
            raise BadProxyHeader(f"its line is longer than {MAX_LINE_OCTETS} octets")
        return None
    protocol, *fields = bytes(heard[len(_LINE) : end]).split(b" ")
    octets = end + len(b"\r\n")
    if protocol == b"UNKNOWN":  # whatever else is in the line is to be ignored
        return ProxyHeader(octets)
    if protocol not in (b"TCP4", b"TCP6"):
        raise BadProxyHeader("its protocol is none of TCP4, TCP6, UNKNOWN")
    if len(fields) != 4:
        raise BadProxyHeader("its line does not hold two addresses and two ports")
    kind = IPv4Address if protocol == b"TCP4" else IPv6Address
    source, destination = (_written_address(text, kind) for text in fields[:2])
    source_port, destination_port = (_written_port(text) for text in fields[2:])
    return ProxyHeader(octets, ProxiedEnds(_end(source, source_port), _end(destination, destination_port)))


def _written_address(text: bytes, kind: type[IPv4Address] | type[IPv6Address]) -> IPv4Address | IPv6Address:
    try:
        address = kind(text.decode("ascii"))
    except ValueError:
        raise BadProxyHeader("an address is not one of its protocol") from None
    if getattr(address, "scope_id", None) is not None:
        raise BadProxyHeader("an address names an interface")
    return address


def _written_port(text: bytes) -> int:
    # Not `int` alone: it reads signs, underscores, blanks.
    if not text.isdigit() or len(text) > 5 or text.startswith(b"0"):
        raise BadProxyHeader("a port is not a number from 1 to 65535")
    return int(text)


# ---- version 2 -----------------------------------------------------------------------------------


def _parse_binary(heard: bytes | bytearray) -> ProxyHeader | None:
    _, version_command, family_number, length = _FIXED.unpack_from(heard)
    if version_command >> 4 != _VERSION:
        raise BadProxyHeader("its version is neither 1 nor 2")
    if length > MAX_BLOCK_OCTETS:
        raise BadProxyHeader(f"it announces {length} octets, more than {MAX_BLOCK_OCTETS}")
    try:
        command = _Command(version_command & 0x0F)
        family = _Family(family_number) if command is _Command.PROXY else _Family.UNKNOWN
    except ValueError:
        raise BadProxyHeader("its command, family or transport is unknown, or not for a stream") from None
    octets = _FIXED.size + length
    if len(heard) < octets:
        return None
    if family is _Family.UNKNOWN:  # whatever else is in the header is to be ignored
        return ProxyHeader(octets)
    header = bytes(heard[:octets])
    addresses = _ADDRESSES[family]
    if length < addresses.size:
        raise BadProxyHeader("it is too short for its addresses")
    _verify_checksum(header, _FIXED.size + addresses.size)
    if family is _Family.UNIX:  # its client has no network address: it counts as the proxy
        return ProxyHeader(octets)
    source, destination, source_port, destination_port = addresses.unpack_from(header, _FIXED.size)
    ends = ProxiedEnds(_end(ip_address(source), source_port), _end(ip_address(destination), destination_port))
    return ProxyHeader(octets, ends)


def _fields(header: bytes, start: int) -> Iterator[tuple[int, slice]]:
    """Type and place of each additional field. Raises `BadProxyHeader`."""
    while start < len(header):
        if len(header) - start < _FIELD.size:
            raise BadProxyHeader("an additional field is cut short")
        kind, length = _FIELD.unpack_from(header, start)
        start += _FIELD.size
        if length > len(header) - start:
            raise BadProxyHeader("an additional field reaches beyond the header")
        yield kind, slice(start, start + length)
        start += length


def _verify_checksum(header: bytes, start: int) -> None:
    """Look through the additional fields, and at the first checksum: a second one would only cost time."""
    found = [place for kind, place in _fields(header, start) if kind == _CHECKSUM_TYPE]
    if not found:
        return
    place = found[0]
    if place.stop - place.start != _CHECKSUM_OCTETS:
        raise BadProxyHeader("its checksum is not of four octets")
    blank = header[: place.start] + bytes(_CHECKSUM_OCTETS) + header[place.stop :]
    if crc32c(blank) != int.from_bytes(header[place], "big"):
        raise BadProxyHeader("its checksum is wrong")


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # the polynomial of RFC 3720 §12.1, mirrored
        table.append(value)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()


def crc32c(data: bytes) -> int:
    """The checksum of RFC 3720 §12.1. `zlib` knows the other polynomial alone."""
    crc = 0xFFFF_FFFF
    for octet in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFF_FFFF


# ---- ends ----------------------------------------------------------------------------------------


def _end(address: IPv4Address | IPv6Address, port: int) -> Endpoint:
    if not 0 < port < 65536:
        raise BadProxyHeader("a port is not a number from 1 to 65535")
    # As a socket's own addresses are read: a client is the same one by whatever family it comes.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return Endpoint(str(mapped or address), port)


def ends_behind(header: ProxyHeader, *, peer: Endpoint, local: Endpoint) -> ProxiedEnds:
    """Who is connected to whom, after a header that came from `peer` to `local`.

    Where the proxy names nobody it is the client itself. So it is where another machine names a loopback address: that
    is its own, and must not have what clients of this machine may.
    """
    ends = header.ends
    own = ProxiedEnds(peer, local)
    if ends is None:
        return own
    here = is_local(peer.host) and is_local(local.host)
    return own if is_local(ends.source.host) and not here else ends
