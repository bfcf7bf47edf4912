"""The resolver that asks real name servers, by dnspython on Trio.

What is not here: remembering answers (`resolver.cache`), or what they mean for mail (`delivery.mx`).
Names are absolute: no search list is applied. A hosts file goes before DNS for addresses, as on the rest of the system.
Failures raised: `ResolutionFailed` for everything that may be better next time, `NameNotFound` for NXDOMAIN alone.
Their texts are printable ASCII and fit into a reply.
"""

from collections.abc import Sequence
from functools import partial
from ipaddress import ip_address
from typing import Any

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
import trio

from elemta.resolver.base import MailExchanger, NameNotFound, ResolutionFailed
from elemta.resolver.files import Nameserver, WatchedFile, parse_hosts, parse_resolv_conf
from elemta.runtime.threads import Threads

#: For one question, all name servers and repetitions together: resolv.conf(5) gives 5 s twice.
QUESTION_SECONDS = 10.0
#: What one name server has before the next is asked; dnspython's own default.
TRY_SECONDS = 2.0
#: CNAMEs followed from one answer to the next, beyond those that one answer holds. RFC 1034 §5.2.2 asks for a bound;
#: BIND and Unbound follow between 11 and 17.
MAX_ALIASES = 8
#: Records of one answer that are kept, the most preferred first: nobody tries more hosts than this.
MAX_RECORDS = 100
#: Names of one address that are kept: RFC 7208 §4.6.4 looks at no more.
MAX_POINTERS = 10
#: Octets of all TXT records of a name, together: ten times what large domains have there.
MAX_TEXT_OCTETS = 16 * 1024
#: Characters of a name that can be none, in a failure's text: it becomes part of a reply line (RFC 5321 §4.5.3.1.5).
SHOWN_CHARACTERS = 100
#: dnspython measures by the wall clock, which may step; our own deadline is the one that counts.
_NEVER_SECONDS = 1e9

_LOCALHOST = ("127.0.0.1", "::1")


class DnsResolver:
    """Answers about mail from the system's name servers, or from those that are given."""

    def __init__(
        self,
        threads: Threads,
        *,
        nameservers: Sequence[Nameserver] | None = None,
        hosts_path: str = "/etc/hosts",
        resolv_conf_path: str = "/etc/resolv.conf",
        question_seconds: float = QUESTION_SECONDS,
        try_seconds: float = TRY_SECONDS,
    ) -> None:
        self._given = None if nameservers is None else tuple(nameservers)
        self._hosts = WatchedFile(hosts_path, parse_hosts, threads=threads)
        self._resolv_conf = WatchedFile(resolv_conf_path, parse_resolv_conf, threads=threads)
        self._question_seconds = question_seconds
        self._asker = dns.asyncresolver.Resolver(configure=False)
        self._asker.timeout = try_seconds
        self._asker.lifetime = _NEVER_SECONDS
        self._backend = dns.asyncbackend.get_backend("trio")

    async def mail_exchangers(self, domain: str) -> list[MailExchanger]:
        """The MX records of a domain, CNAMEs followed. Raises `ResolutionFailed`, `NameNotFound`."""
        if _is_below(domain, "localhost"):
            return []
        records = await self._ask(domain, dns.rdatatype.MX)
        records.sort(key=lambda record: record.preference)
        return [MailExchanger(record.preference, _host(record.exchange)) for record in records[:MAX_RECORDS]]

    async def addresses(self, host: str) -> list[str]:
        """The AAAA and A addresses of a host, as text, in this order (RFC 6724 §2.1).

        One kind is enough: some name servers fail on AAAA alone. Raises `ResolutionFailed`, `NameNotFound`.
        """
        if _is_below(host, "localhost"):
            return list(_LOCALHOST)  # RFC 6761 §6.3: never asked of DNS
        named = (await self._hosts.value()).get(host.lower())
        if named:
            return list(named)
        async with trio.open_nursery() as nursery:
            six = _Question(partial(self._ask, host, dns.rdatatype.AAAA), nursery)
            four = _Question(partial(self._ask, host, dns.rdatatype.A), nursery)
        found = [str(record.address) for record in (*six.records[:MAX_RECORDS], *four.records[:MAX_RECORDS])]
        if not found:
            _raise_failure(six.failure, four.failure)
        return found

    async def ipv4_addresses(self, name: str) -> list[str]:
        """The A records of a name, by DNS alone. Raises `ResolutionFailed`, `NameNotFound`."""
        return [str(record.address) for record in (await self._ask(name, dns.rdatatype.A))[:MAX_RECORDS]]

    async def pointers(self, address: str) -> list[str]:
        """The names of an IP address by its PTR records, `MAX_POINTERS` at most. Raises `ResolutionFailed`,
        `NameNotFound`."""
        try:
            asked = ip_address(address)
        except ValueError:
            raise NameNotFound(f"{_shown(address)} is no IP address") from None
        if asked.is_loopback:
            return ["localhost"]  # RFC 6761 §6.3 the other way round
        records = await self._ask(asked.reverse_pointer, dns.rdatatype.PTR)
        return [_host(record.target) for record in records[:MAX_POINTERS]]

    async def texts(self, name: str) -> list[str]:
        """The TXT records of a name, the strings of each joined; octets that are no UTF-8 become U+FFFD.

        More than `MAX_TEXT_OCTETS` of them count as a broken answer. Raises `ResolutionFailed`, `NameNotFound`.
        """
        records = [b"".join(record.strings) for record in await self._ask(name, dns.rdatatype.TXT)]
        if sum(map(len, records)) > MAX_TEXT_OCTETS:
            raise ResolutionFailed(f"DNS gave no usable answer about {name} (TXT): more than {MAX_TEXT_OCTETS} octets")
        return [record.decode(errors="replace") for record in records[:MAX_RECORDS]]

    async def _ask(self, text: str, kind: dns.rdatatype.RdataType) -> list[Any]:
        """The records of one kind. Raises `ResolutionFailed`, `NameNotFound`."""
        name = _absolute(text)
        question = f"{text} ({dns.rdatatype.to_text(kind)})"
        with trio.move_on_after(self._question_seconds):
            try:
                return await self._follow(name, kind)
            except dns.resolver.NXDOMAIN:
                raise NameNotFound(f"the domain {text} does not exist") from None
            except (dns.exception.DNSException, OSError) as error:
                raise ResolutionFailed(f"DNS gave no usable answer about {question}: {_cause(error)}") from error
        raise ResolutionFailed(f"DNS gave no answer about {question} within {self._question_seconds:g} s")

    async def _follow(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> list[Any]:
        nameservers = await self._resolv_conf.value() if self._given is None else self._given
        self._asker.nameservers = [dns.nameserver.Do53Nameserver(each.address, each.port) for each in nameservers]
        for _ in range(1 + MAX_ALIASES):
            answer = await self._asker.resolve(
                name, kind, raise_on_no_answer=False, search=False, backend=self._backend
            )
            if answer.rrset is not None or answer.canonical_name == name:
                return list(answer)
            # The answer ends at an alias: not every name server follows them for us, RFC 1034 §4.3.1.
            name = answer.canonical_name
        raise ResolutionFailed(f"DNS gave no usable answer about {name}: more than {MAX_ALIASES} aliases in a row")


class _Question:
    """One question asked beside another: its records, or why there are none."""

    def __init__(self, ask: partial[Any], nursery: trio.Nursery) -> None:
        self.records: list[Any] = []
        self.failure: ResolutionFailed | NameNotFound | None = None
        nursery.start_soon(self._run, ask)

    async def _run(self, ask: partial[Any]) -> None:
        try:
            self.records = await ask()
        except (ResolutionFailed, NameNotFound) as failure:
            self.failure = failure


def _raise_failure(first: Exception | None, second: Exception | None) -> None:
    """Without any address: not knowing goes before not existing, and one kind's NXDOMAIN before the other's nothing."""
    failures = [failure for failure in (first, second) if failure is not None]
    for failure in sorted(failures, key=lambda failure: isinstance(failure, NameNotFound)):
        raise failure


def _is_below(name: str, top: str) -> bool:
    lowered = name.lower().removesuffix(".")
    return lowered == top or lowered.endswith(f".{top}")


def _absolute(text: str) -> dns.name.Name:
    """The name as dnspython has it. Raises `NameNotFound` for what can be no name, or never is one."""
    # RFC 6761 §6.4: "invalid" never exists. A backslash would be read as an escape.
    if not text or not text.isascii() or "\\" in text or _is_below(text, "invalid"):
        raise NameNotFound(f"the domain {_shown(text)} cannot exist")
    try:
        return dns.name.from_text(text)
    except dns.exception.DNSException:
        raise NameNotFound(f"the domain {_shown(text)} cannot exist") from None


def _shown(text: str) -> str:
    """A hostile name in printable ASCII, cut to `SHOWN_CHARACTERS`."""
    return ascii(text)[:SHOWN_CHARACTERS]


def _host(name: dns.name.Name) -> str:
    """Lower-case A-labels without the final dot; the root, which is the null MX, becomes empty."""
    return "" if name == dns.name.root else name.to_text(omit_final_dot=True).lower()


def _cause(error: Exception) -> str:
    """What went wrong, in the words of DNS and nothing that came over the wire."""
    each = getattr(error, "kwargs", {}).get("errors", ())
    words = [entry[3] if isinstance(entry[3], str) else type(entry[3]).__name__ for entry in each]
    return ", ".join(dict.fromkeys(words)) or type(error).__name__
