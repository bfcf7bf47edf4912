"""Whether CAA records let an authority issue.

RFC 8659: the records of the nearest name that has any count, `issuewild` before `issue` for a wildcard. Pure but for
the asking, which is by dnspython and not of the system's hosts file. Failure raised: `ResolutionFailed`.
"""

from collections.abc import Collection, Sequence

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdtypes.ANY.CAA
import dns.resolver
import trio
from attrs import frozen

from elemta.resolver.base import ResolutionFailed

#: Seconds for one name.
QUESTION_SECONDS = 10.0
#: The bit of a record that must be understood to be passed over, RFC 8659 §4.1.
_CRITICAL = 128
_KNOWN = frozenset({"issue", "issuewild", "iodef", "issuemail", "issuevmc"})


@frozen
class CaaRecord:
    """One record; `tag` in lower case."""

    flags: int
    tag: str
    value: str

    @property
    def issuer(self) -> str:
        """The authority's domain, without parameters; empty for nobody."""
        return self.value.partition(";")[0].strip().lower()


def permits(records: Sequence[CaaRecord], identities: Collection[str], *, wildcard: bool = False) -> bool:
    """Whether an authority that goes by `identities` may issue, RFC 8659 §4."""
    if any(record.flags & _CRITICAL and record.tag not in _KNOWN for record in records):
        return False
    asked = [record for record in records if wildcard and record.tag == "issuewild"]
    asked = asked or [record for record in records if record.tag == "issue"]
    return not asked or any(record.issuer in identities for record in asked if record.issuer)


async def relevant_records(domain: str) -> tuple[str, list[CaaRecord]]:
    """The records that count for a domain, with the name they stand at; none when there are none up to the root.

    Raises `ResolutionFailed`.
    """
    name = dns.name.from_text(domain)
    while name != dns.name.root:
        records = await _records(name)
        if records:
            return name.to_text(omit_final_dot=True), records
        name = name.parent()
    return "", []


async def _records(name: dns.name.Name) -> list[CaaRecord]:
    resolver = dns.asyncresolver.Resolver()
    try:
        with trio.fail_after(QUESTION_SECONDS):
            answer = await resolver.resolve(name, "CAA", raise_on_no_answer=False, search=False)
    except dns.resolver.NXDOMAIN:
        return []
    except (dns.exception.DNSException, OSError, trio.TooSlowError) as error:
        raise ResolutionFailed(f"DNS gave no usable answer about {name} (CAA): {type(error).__name__}") from error
    rows = [row for row in answer if isinstance(row, dns.rdtypes.ANY.CAA.CAA)]
    return [CaaRecord(row.flags, row.tag.decode().lower(), row.value.decode(errors="replace")) for row in rows]
