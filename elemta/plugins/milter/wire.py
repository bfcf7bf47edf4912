"""The numbers of Sendmail's milter protocol with the form of its packets; pure.

A packet is its length (four octets, big-endian, without themselves), one octet that says what it is, and data. Numbers
and names are those of libmilter's headers `mfapi.h` and `mfdef.h` (Sendmail 8.18), version 6 of the protocol.
What is not here: which packet may come when (`milter.machine`). Failure raised: `MilterProtocolError`.
"""

import enum
import struct
from typing import Final

from attrs import frozen

#: The version that we speak; filters that speak an older one say so. `SMFI_PROT_VERSION`.
VERSION: Final = 6
#: The oldest version that we speak: before it there was no negotiation of steps. `SMFI_PROT_VERSION_MIN`.
OLDEST_VERSION: Final = 2
#: Octets of the data of one packet that we send: `MILTER_MAX_DATA_SIZE` as long as no more was negotiated.
MAX_DATA_OCTETS: Final = 65535
#: Octets of one packet that we take: the largest data that filters can be allowed to send, `SMFIP_MDS_1M`.
MAX_PACKET_OCTETS: Final = 1024 * 1024

_LENGTH: Final = struct.Struct(">I")
_NEGOTIATION: Final = struct.Struct(">III")


class MilterProtocolError(Exception):
    """The filter sent what the protocol does not allow, or more than our bounds do."""


class MilterClosed(MilterProtocolError):
    """The filter closed the connection while an answer was due."""


class Command(enum.Enum):
    """What we send, `SMFIC_…`."""

    ABORT = b"A"
    BODY = b"B"
    CONNECT = b"C"
    MACRO = b"D"
    END_OF_BODY = b"E"
    HELO = b"H"
    HEADER = b"L"
    MAIL = b"M"
    END_OF_HEADER = b"N"
    NEGOTIATE = b"O"
    QUIT = b"Q"
    RCPT = b"R"
    DATA = b"T"


class Answer(enum.Enum):
    """What the filter sends, `SMFIR_…`; the negotiation's answer bears the letter of its question."""

    ADD_RECIPIENT = b"+"
    DELETE_RECIPIENT = b"-"
    ADD_RECIPIENT_WITH_PARAMETERS = b"2"
    SHUTDOWN = b"4"
    ACCEPT = b"a"
    REPLACE_BODY = b"b"
    CONTINUE = b"c"
    DISCARD = b"d"
    CHANGE_SENDER = b"e"
    CONNECTION_FAIL = b"f"
    ADD_HEADER = b"h"
    INSERT_HEADER = b"i"
    CHANGE_HEADER = b"m"
    NEGOTIATED = b"O"
    PROGRESS = b"p"
    QUARANTINE = b"q"
    REJECT = b"r"
    SKIP = b"s"
    TEMPFAIL = b"t"
    REPLY_CODE = b"y"


class Action(enum.IntFlag):
    """What a filter may do to a mail, `SMFIF_…`."""

    ADD_HEADERS = 0x01
    CHANGE_BODY = 0x02
    ADD_RECIPIENTS = 0x04
    DELETE_RECIPIENTS = 0x08
    CHANGE_HEADERS = 0x10
    QUARANTINE = 0x20
    CHANGE_SENDER = 0x40
    ADD_RECIPIENTS_WITH_PARAMETERS = 0x80
    SET_MACRO_LISTS = 0x100


class Step(enum.IntFlag):
    """What a filter does not want to be sent, will not answer, or wants otherwise, `SMFIP_…`."""

    NO_CONNECT = 0x01
    NO_HELO = 0x02
    NO_MAIL = 0x04
    NO_RCPT = 0x08
    NO_BODY = 0x10
    NO_HEADERS = 0x20
    NO_END_OF_HEADER = 0x40
    SILENT_HEADER = 0x80
    NO_UNKNOWN = 0x100
    NO_DATA = 0x200
    #: It may answer a piece of the body with "skip": no more of them.
    SKIP = 0x400
    #: It wants to hear of recipients that were refused already.
    REFUSED_RECIPIENTS = 0x800
    SILENT_CONNECT = 0x1000
    SILENT_HELO = 0x2000
    SILENT_MAIL = 0x4000
    SILENT_RCPT = 0x8000
    SILENT_DATA = 0x10000
    SILENT_UNKNOWN = 0x20000
    SILENT_END_OF_HEADER = 0x40000
    SILENT_BODY = 0x80000
    #: Values of header fields go both ways with the space behind the colon.
    LEADING_SPACE = 0x100000


class Stage(enum.IntEnum):
    """Where macros are sent, `SMFIM_…`."""

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    END_OF_BODY = 5
    END_OF_HEADER = 6


class Family(enum.Enum):
    """What kind of address a client has, `SMFIA_…`."""

    UNKNOWN = b"U"
    UNIX = b"L"
    IPV4 = b"4"
    IPV6 = b"6"


@frozen
class Packet:
    """One packet: its kind is one octet."""

    kind: bytes
    data: bytes


class PacketBuffer:
    """Octets in, packets out. Holds one packet within the bound, beside what the last call brought."""

    __slots__ = ("_data", "_limit", "_start")

    def __init__(self, limit: int = MAX_PACKET_OCTETS) -> None:
        self._limit = limit
        self._data = bytearray()
        self._start = 0

    def __bool__(self) -> bool:
        return self._start < len(self._data)

    def push(self, data: bytes) -> None:
        """Take what was received."""
        if self._start:
            del self._data[: self._start]
            self._start = 0
        self._data += data

    def take(self) -> Packet | None:
        """The next packet, None while it is not whole. Raises `MilterProtocolError`."""
        begin = self._start + _LENGTH.size
        if len(self._data) < begin:
            return None
        (octets,) = _LENGTH.unpack_from(self._data, self._start)
        if not 1 <= octets <= self._limit:
            raise MilterProtocolError(f"a packet of {octets} octets: from 1 to {self._limit} are allowed")
        if len(self._data) < begin + octets:
            return None
        self._start = begin + octets
        return Packet(bytes(self._data[begin : begin + 1]), bytes(self._data[begin + 1 : self._start]))


# ---- writing -------------------------------------------------------------------------------------


def packet(kind: bytes, data: bytes = b"") -> bytes:
    """One packet as it goes on the wire."""
    return _LENGTH.pack(1 + len(data)) + kind + data


def string(text: str | bytes) -> bytes:
    """A text with the NUL that ends it. A NUL within would make the filter read something else than we wrote: it is
    left out, as no text of a mail may hold one (RFC 5322 §2.2, RFC 5321 §4.1.2)."""
    octets = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return octets.replace(b"\0", b"") + b"\0"


def offer(actions: Action, steps: Step) -> bytes:
    """The data of our half of the negotiation."""
    return _NEGOTIATION.pack(VERSION, actions, steps)


def port(number: int) -> bytes:
    """A port in the order of the network."""
    return struct.pack(">H", number)


# ---- reading -------------------------------------------------------------------------------------


def number(data: bytes) -> tuple[int, bytes]:
    """The number at the beginning, with what follows it. Raises `MilterProtocolError`."""
    if len(data) < _LENGTH.size:
        raise MilterProtocolError("a packet ends within a number")
    return int.from_bytes(data[: _LENGTH.size], "big"), data[_LENGTH.size :]


def strings(data: bytes, *, least: int, most: int) -> list[bytes]:
    """The texts that `data` is made of, each ended by a NUL. Raises `MilterProtocolError` for fewer or more."""
    if not data.endswith(b"\0"):
        raise MilterProtocolError("a text has no end")
    found = data[:-1].split(b"\0", most)
    if not least <= len(found) <= most:
        raise MilterProtocolError(f"a packet has not {least} to {most} texts")
    return found


def negotiated(data: bytes) -> tuple[int, int, int, bytes]:
    """Version, actions, steps of the filter's half, with what follows them. Raises `MilterProtocolError`."""
    if len(data) < _NEGOTIATION.size:
        raise MilterProtocolError("the negotiation's answer is too short")
    version, actions, steps = _NEGOTIATION.unpack_from(data)
    return version, actions, steps, data[_NEGOTIATION.size :]
