"""A real DNS server on loopback, UDP with TCP, that can misbehave.

What is not here: assertions. It answers from the records it was given, follows aliases among them as a recursive name
server does, and counts what it was asked.
"""

import enum
import struct
from collections import Counter

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import trio

from elemta.resolver.files import Nameserver

#: RFC 1035 §4.2.1: a UDP answer longer than this is cut.
UDP_OCTETS = 512
MAX_ALIASES = 20


class Fault(enum.Enum):
    """How the answer about a name goes wrong."""

    SERVFAIL = enum.auto()
    REFUSED = enum.auto()
    FORMERR = enum.auto()
    YXDOMAIN = enum.auto()
    SILENT = enum.auto()
    #: Octets that are no DNS message.
    GARBAGE = enum.auto()
    #: An answer to a question that nobody asked, with another id.
    STRANGER = enum.auto()
    #: Cut over UDP, closed without a word over TCP.
    CUT = enum.auto()
    #: An alias is given, its target is not followed.
    UNFOLLOWED = enum.auto()


RCODES = {
    Fault.SERVFAIL: dns.rcode.SERVFAIL,
    Fault.REFUSED: dns.rcode.REFUSED,
    Fault.FORMERR: dns.rcode.FORMERR,
    Fault.YXDOMAIN: dns.rcode.YXDOMAIN,
}


class DnsServer:
    """One server. Add records and faults at any time; `asked` counts (name, kind, "udp" or "tcp")."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, str, str]] = Counter()
        self.nameserver = Nameserver("127.0.0.1", 0)
        self._records: dict[dns.name.Name, list[dns.rrset.RRset]] = {}
        self._faults: dict[tuple[dns.name.Name, str], Fault] = {}

    def add(self, name: str, kind: str, *values: str) -> None:
        """Records of one kind, in the text form of zone files."""
        rrset = dns.rrset.from_text(name + ".", 300, "IN", kind, *values)
        self._records.setdefault(rrset.name, []).append(rrset)

    def spoil(self, name: str, fault: Fault, *kinds: str) -> None:
        """Make answers about a name go wrong; without kinds, all of them."""
        for kind in kinds or ("MX", "A", "AAAA"):
            self._faults[dns.name.from_text(name), kind] = fault

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer until cancelled; started once the port is known."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        udp = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
        await udp.bind(("127.0.0.1", port))
        self.nameserver = Nameserver("127.0.0.1", port)
        with udp:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_udp, udp)
                nursery.start_soon(trio.serve_listeners, self._serve_tcp, listeners)
                task_status.started()

    async def _serve_udp(self, udp: trio.socket.SocketType) -> None:
        while True:
            wire, peer = await udp.recvfrom(4096)
            answer = self.answer(wire, "udp")
            if answer:
                await udp.sendto(answer, peer)

    async def _serve_tcp(self, stream: trio.SocketStream) -> None:
        async with stream:
            wire = b""
            while len(wire) < 2 or len(wire) < 2 + struct.unpack(">H", wire[:2])[0]:
                piece = await stream.receive_some(4096)
                if not piece:
                    return
                wire += piece
            answer = self.answer(wire[2:], "tcp")
            if answer:
                await stream.send_all(struct.pack(">H", len(answer)) + answer)

    def answer(self, wire: bytes, by: str) -> bytes:
        """The answer to one question; empty for none."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked[question.name.to_text(omit_final_dot=True).lower(), kind, by] += 1
        fault = self._faults.get((question.name, kind))
        response = dns.message.make_response(query, recursion_available=True)
        if fault is Fault.SILENT or (fault is Fault.CUT and by == "tcp"):
            return b""
        if fault is Fault.GARBAGE:
            return wire[:2] + b"\xff" * 40
        if fault is Fault.CUT:
            response.flags |= dns.flags.TC
        elif fault is Fault.STRANGER:
            response.id ^= 1
        elif fault in RCODES:
            response.set_rcode(RCODES[fault])
        else:
            self._fill(response, question.name, question.rdtype, follow=fault is not Fault.UNFOLLOWED)
        return self._fitting(response, by)

    def _fitting(self, response: dns.message.Message, by: str) -> bytes:
        wire: bytes = response.to_wire(max_size=65535)
        if by == "udp" and len(wire) > UDP_OCTETS:
            cut = dns.message.Message(id=response.id)
            cut.flags = response.flags | dns.flags.TC
            cut.question = response.question
            wire = cut.to_wire()
        return wire

    def _fill(
        self, response: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType, *, follow: bool
    ) -> None:
        for _ in range(MAX_ALIASES):
            here = self._records.get(name)
            if here is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
                return
            response.answer += [rrset for rrset in here if rrset.rdtype == kind and rrset not in response.answer]
            alias = next((rrset for rrset in here if rrset.rdtype == dns.rdatatype.CNAME), None)
            if alias is None:
                return
            if alias not in response.answer:
                response.answer.append(alias)
            if not follow:
                return
            name = alias[0].target
