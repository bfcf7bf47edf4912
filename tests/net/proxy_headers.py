"""Writes headers of the PROXY protocol, as proxies do."""

import struct
from ipaddress import ip_address

from elemta.net.proxy import crc32c

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
UNKNOWN, TCP4, UDP4, TCP6, UDP6, UNIX, UNIX_DATAGRAM = 0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32
CHECKSUM, NOOP = 0x03, 0x04

SOURCE, DESTINATION = "198.51.100.7", "203.0.113.25"


def line(source: str = SOURCE, destination: str = DESTINATION, *, ports: str = "40000 25") -> bytes:
    """A header of version 1."""
    protocol = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {protocol} {source} {destination} {ports}\r\n".encode()


def addresses(source: str = SOURCE, destination: str = DESTINATION, *, port: int = 40_000) -> bytes:
    """The address block of version 2."""
    return ip_address(source).packed + ip_address(destination).packed + struct.pack("!HH", port, 25)


def field(kind: int, value: bytes) -> bytes:
    """An additional field."""
    return struct.pack("!BH", kind, len(value)) + value


def binary(block: bytes = b"", *, command: int = PROXY, family: int = TCP4) -> bytes:
    """A header of version 2 around this block."""
    return SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block


def with_checksum(block: bytes, *, family: int = TCP4, behind: bytes = b"") -> bytes:
    """A header with its right checksum, in a field between the block and what comes `behind`."""
    blank = binary(block + field(CHECKSUM, bytes(4)) + behind, family=family)
    at = len(blank) - len(behind) - 4
    return blank[:at] + crc32c(blank).to_bytes(4, "big") + blank[at + 4 :]
