"""Reads the server name out of a ClientHello.

Why not OpenSSL's callback: CPython decodes the name as ASCII before it calls ours, and writes a traceback to standard
error when a hostile client sends anything else. Here such a name counts as none. What is not here: judging the hello,
which is OpenSSL's; whatever is malformed is handed on to it. RFC 8446 §4.1.2 for the hello (the same octets stand in
RFC 5246 §7.4.1.2), RFC 8446 §5.1 for records, RFC 6066 §3 for the name. Nothing is raised.
"""

from typing import Final

#: Octets that a ClientHello may take: OpenSSL's own bound for it is 131,396, real ones have some hundred to 2,000
#: (with the key shares of RFC 9794's hybrids).
MAX_HELLO_OCTETS: Final = 16 * 1024
#: Records that a ClientHello may lie in: one, where nobody plays games. The search begins afresh with each receive, and
#: this keeps it short.
MAX_RECORDS: Final = 16
#: The longest name of a host, RFC 1035 §2.3.4.
MAX_NAME_OCTETS: Final = 253

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = b"\x01"
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0


class _Short(Exception):
    """More octets are needed."""


class _Malformed(Exception):
    """This is no ClientHello."""


class _Octets:
    """Reads fields one after the other; `end` is what is raised where they end too early."""

    def __init__(self, data: bytes, end: type[Exception] = _Malformed) -> None:
        self._data = data
        self._at = 0
        self._end = end

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if self.left < count:
            raise self._end
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, octets: int) -> int:
        return int.from_bytes(self.take(octets), "big")

    def vector(self, length_octets: int) -> "_Octets":
        """A field with its length before it, RFC 8446 §3.4."""
        return _Octets(self.take(self.number(length_octets)))


def asked_name(received: bytes) -> str | None:
    """The host name that a client asks for, in lower case; empty when it asks for none.

    `received` is everything since the connection's first octet. None while the hello is not whole.
    """
    try:
        name = _name_in(_Octets(_hello(received)))
    except _Short:
        return None if len(received) < MAX_HELLO_OCTETS else ""
    except _Malformed:
        return ""
    if len(name) > MAX_NAME_OCTETS or not name.isascii() or any(octet <= 0x20 or octet == 0x7F for octet in name):
        return ""
    return name.decode("ascii").lower().removesuffix(".")


def _hello(received: bytes) -> bytes:
    """The body of the first handshake message, which may lie in several records (RFC 8446 §5.1)."""
    records = _Octets(received, _Short)
    message = b""
    for _ in range(MAX_RECORDS):
        if records.number(1) != _HANDSHAKE:
            raise _Malformed
        records.take(2)  # legacy_record_version
        message += records.take(records.number(2))
        if message[:1] not in (b"", _CLIENT_HELLO):
            raise _Malformed
        end = 4 + int.from_bytes(message[1:4], "big")
        if len(message) >= max(4, end):
            return message[4:end]
    raise _Malformed


def _name_in(hello: _Octets) -> bytes:
    hello.take(2 + 32)  # legacy_version, random
    hello.vector(1)  # legacy_session_id
    hello.vector(2)  # cipher_suites
    hello.vector(1)  # legacy_compression_methods
    if not hello.left:  # extensions may be missing altogether before TLS 1.3
        return b""
    extensions = hello.vector(2)
    while extensions.left:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind != _SERVER_NAME:
            continue
        names = content.vector(2)
        while names.left:
            form, name = names.number(1), names.vector(2)
            if form == _HOST_NAME:
                return name.take(name.left)
    return b""
