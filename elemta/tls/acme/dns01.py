"""Records for dns-01, written by DNS updates.

The TXT record of RFC 8555 §8.4 is added by an update (RFC 2136) that is signed by TSIG (RFC 8945), at the zone's
primary server; aliases of `_acme-challenge` are followed, so that it may live in a zone of its own. Then the zone's
other servers are asked until they have it, since the authority may ask any of them. The record is removed afterwards.
What is not here: the order (`tls.acme.order`), or asking the system's resolver.
Failure raised: `ChallengeFailed`, without any part of the key.
"""

import base64
import hashlib
import ipaddress
from collections.abc import Sequence

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.ANY.NS
import dns.rrset
import dns.tsigkeyring
import dns.update
import trio
from attrs import define, field, frozen
from structlog.typing import FilteringBoundLogger

from elemta.resolver.base import NameNotFound, ResolutionFailed, Resolver
from elemta.tls.acme.base import Kind
from elemta.tls.acme.order import ChallengeFailed, Task

#: The label in front of a domain, RFC 8555 §8.4.
LABEL = "_acme-challenge"
#: Seconds that others may keep the record: it is there for minutes.
RECORD_TTL_SECONDS = 60
#: Seconds for one question or update: by UDP, then by TCP when the answer did not fit.
QUESTION_SECONDS = 10.0
#: Seconds between two looks at a server that lacks the record: NOTIFY and transfer take moments.
LOOK_SECONDS = 2.0
#: Servers of a zone that are waited for; nobody has more.
MOST_SERVERS = 20
#: Aliases followed; as in `resolver.dns`.
MOST_ALIASES = 8

_DNS_PORT = 53


@frozen
class UpdateServer:
    """Where updates go. `zone` is found by its SOA record when empty."""

    host: str
    port: int = _DNS_PORT
    zone: str = ""
    key_name: str = ""
    key_secret: str = field(default="", repr=False)
    key_algorithm: str = "hmac-sha256"
    #: Seconds that the zone's other servers may take.
    propagation: float = 120.0


@define
class _Record:
    """One record that was put up, or may have been."""

    zone: dns.name.Name
    name: dns.name.Name
    value: str


class Dns01:
    """The `Solver` of dns-01."""

    kind = Kind.DNS

    def __init__(self, server: UpdateServer, resolver: Resolver, *, log: FilteringBoundLogger) -> None:
        self._server = server
        self._resolver = resolver
        self._log = log
        self._records: list[_Record] = []

    async def put_up(self, tasks: Sequence[Task]) -> None:
        """Add every record, wait until the zone's servers have them. Raises `ChallengeFailed`."""
        address = await self._primary()
        for task in tasks:
            name = await self._alias_end(address, dns.name.from_text(f"{LABEL}.{task.name}"))
            record = _Record(await self._zone_of(address, name), name, record_value(task.answer))
            # First: an update whose answer is lost may have been made.
            self._records.append(record)
            await self._update(address, record, add=True)
        with trio.move_on_after(self._server.propagation) as scope:
            for record in self._records:
                await self._wait_everywhere(address, record)
        if scope.cancelled_caught:
            self._log.warning("acme.dns_slow", seconds=self._server.propagation, zone=str(self._records[0].zone))

    async def take_down(self, tasks: Sequence[Task]) -> None:
        """Remove what was put up; what cannot be removed is logged, since it does no harm."""
        records, self._records = self._records, []
        for record in records:
            try:
                await self._update(await self._primary(), record, add=False)
            except ChallengeFailed as error:
                self._log.warning("acme.record_left", name=str(record.name), error=str(error))

    # ---- questions -------------------------------------------------------------------------------

    async def _primary(self) -> str:
        """The address of the server that takes updates."""
        return (await self._addresses(self._server.host))[0]

    async def _addresses(self, host: str) -> list[str]:
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass
        try:
            found = await self._resolver.addresses(host)
        except (ResolutionFailed, NameNotFound) as error:
            raise ChallengeFailed(f"the name server {host} has no address: {error}") from error
        if not found:
            raise ChallengeFailed(f"the name server {host} has no address")
        return found

    async def _alias_end(self, address: str, name: dns.name.Name) -> dns.name.Name:
        """Where the record belongs: the end of the aliases, which may be another zone (RFC 1034 §3.6.2)."""
        for _ in range(MOST_ALIASES):
            answer = await self._ask(address, name, dns.rdatatype.CNAME)
            targets = [each.target for each in _rows(answer.answer, name) if isinstance(each, _CNAME)]
            if not targets:
                return name
            name = targets[0]
        raise ChallengeFailed(f"{name} has more than {MOST_ALIASES} aliases in a row")

    async def _zone_of(self, address: str, name: dns.name.Name) -> dns.name.Name:
        """The zone that holds a name, as the server sees it."""
        if self._server.zone:
            return dns.name.from_text(self._server.zone)
        candidate = name
        while candidate != dns.name.root:
            answer = await self._ask(address, candidate, dns.rdatatype.SOA)
            if any(rrset.rdtype == dns.rdatatype.SOA and rrset.name == candidate for rrset in answer.answer):
                return candidate
            candidate = candidate.parent()
        raise ChallengeFailed(
            f"the name server {self._server.host} has no zone for {name}; set tls.lets_encrypt.dns.zone"
        )

    async def _wait_everywhere(self, address: str, record: _Record) -> None:
        """Wait until every server of the zone has the record; those that are not found are left out."""
        answer = await self._ask(address, record.zone, dns.rdatatype.NS)
        hosts = [each.target for each in _rows(answer.answer, record.zone) if isinstance(each, _NS)]
        for host in hosts[:MOST_SERVERS]:
            try:
                found = await self._addresses(host.to_text(omit_final_dot=True))
            except ChallengeFailed:
                continue
            for each in found:
                if each != address:
                    await self._wait_at(each, record)

    async def _wait_at(self, address: str, record: _Record) -> None:
        while True:
            if await self._has(address, record):
                return
            await trio.sleep(LOOK_SECONDS)

    async def _has(self, address: str, record: _Record) -> bool:
        try:
            answer = await self._ask(address, record.name, dns.rdatatype.TXT, port=_DNS_PORT)
        except ChallengeFailed:
            return False
        return any(record.value in str(row) for row in _rows(answer.answer, record.name))

    async def _ask(
        self, address: str, name: dns.name.Name, kind: dns.rdatatype.RdataType, *, port: int = 0
    ) -> dns.message.Message:
        question = dns.message.make_query(name, kind)
        question.flags &= ~dns.flags.RD
        return await self._exchange(question, address, port or self._server.port, f"{name} {kind.name}")

    async def _update(self, address: str, record: _Record, *, add: bool) -> None:
        update = dns.update.UpdateMessage(record.zone)
        if self._server.key_name:
            key = {self._server.key_name: self._server.key_secret}
            update.use_tsig(dns.tsigkeyring.from_text(key), algorithm=dns.name.from_text(self._server.key_algorithm))
        text = f'"{record.value}"'
        if add:
            update.add(record.name, RECORD_TTL_SECONDS, "TXT", text)
        else:
            update.delete(record.name, "TXT", text)
        answer = await self._exchange(update, address, self._server.port, f"the update of {record.name}")
        if answer.rcode() != dns.rcode.NOERROR:
            word = dns.rcode.to_text(answer.rcode())
            raise ChallengeFailed(
                f"the name server {self._server.host} refused the update of {record.name}: {word}. "
                f"See whether the key in tls.lets_encrypt.dns may update the zone {record.zone}."
            )

    async def _exchange(self, message: dns.message.Message, address: str, port: int, what: str) -> dns.message.Message:
        where = f"the name server {address} port {port}"
        with trio.move_on_after(QUESTION_SECONDS):
            try:
                answer, _ = await dns.asyncquery.udp_with_fallback(message, address, port=port)
            except dns.exception.DNSException as error:
                cause = str(error) or type(error).__name__
                raise ChallengeFailed(f"{where} gave no usable answer to {what}: {cause}") from error
            except OSError as error:
                raise ChallengeFailed(f"{where} is not reached: {error.strerror or error}") from error
            return answer
        raise ChallengeFailed(f"{where} gave no answer to {what} within {QUESTION_SECONDS:g} s")


_CNAME = dns.rdtypes.ANY.CNAME.CNAME
_NS = dns.rdtypes.ANY.NS.NS


def _rows(answer: Sequence[dns.rrset.RRset], name: dns.name.Name) -> list[object]:
    return [row for rrset in answer if rrset.name == name for row in rrset]


def record_value(answer: str) -> str:
    """What the record says: the SHA-256 digest of the key authorization, base64url, RFC 8555 §8.4."""
    return base64.urlsafe_b64encode(hashlib.sha256(answer.encode()).digest()).rstrip(b"=").decode("ascii")
