"""What is missing for a certificate, each with how to mend it.

Everything that an order needs is looked at by itself, from here: the clock, the authority, the account, each domain's
addresses with its CAA records, the way to port 80 (or the DNS update). Nothing is ordered. What is not here: printing
(`cli.cert_acme`). Failures raised: none; what cannot be looked at is a finding too.
"""

import enum
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import h11
import trio
from attrs import frozen

from elemta.net.base import Endpoint, Network
from elemta.resolver.base import NameNotFound, ResolutionFailed, Resolver
from elemta.tls.acme.base import AccountRequest, Authority, AuthorityFailed, Directory, Kind
from elemta.tls.acme.caa import CaaRecord, permits, relevant_records
from elemta.tls.acme.cabinet import MOST_FILE_OCTETS
from elemta.tls.acme.directories import LETS_ENCRYPT, LETS_ENCRYPT_STAGING
from elemta.tls.acme.http01 import PATH
from elemta.tls.acme.issue import Terms
from elemta.tls.acme.order import CLEAR_SECONDS, ChallengeFailed, Solver, Task, nonce_safe

#: Seconds that our clock may be off: authorities backdate their certificates by an hour, nonces live for less.
CLOCK_SECONDS = 300.0
#: Seconds for one way to port 80; an authority waits ten.
REACH_SECONDS = 10.0
#: Where an authority asks, RFC 8555 §8.3.
HTTP_PORT = 80


class State(enum.Enum):
    """How a thing stands."""

    OK = "ok"
    WRONG = "wrong"
    #: It cannot be told from here, or only matters sometimes.
    UNSURE = "unsure"


@frozen
class Finding:
    """One thing that was looked at. `mend` is empty when nothing is to be done."""

    subject: str
    state: State
    says: str
    mend: str = ""


@frozen
class Scene:
    """What is looked at, and by what means. `clock_ahead` tells seconds that our clock is ahead of the authority's."""

    terms: Terms
    authority: Authority
    solver: Solver
    resolver: Resolver
    network: Network
    clock_ahead: Callable[[], float | None]
    #: The CAA records that count for a domain, with the name they stand at. Raises `ResolutionFailed`.
    caa: Callable[[str], Awaitable[tuple[str, list[CaaRecord]]]] = relevant_records
    http_port: int = HTTP_PORT


async def findings(scene: Scene, tell: Callable[[Finding], None]) -> None:
    """Look at everything, and tell each finding as it is found."""
    directory = await _authority(scene, tell)
    for name in dict.fromkeys(each.removeprefix("*.") for each in scene.terms.names):
        tell(await _addresses(scene, name))
    for name in scene.terms.names:
        tell(await _caa(scene, name, directory))
    await _challenge(scene, tell)


# ---- the authority -------------------------------------------------------------------------------


async def _authority(scene: Scene, tell: Callable[[Finding], None]) -> Directory | None:
    terms = scene.terms
    try:
        directory = await scene.authority.directory()
    except AuthorityFailed as error:
        mend = "See whether this host may reach it by HTTPS; for a private authority set ca_file to its root."
        tell(Finding("authority", State.WRONG, str(error), mend))
        return None
    tell(Finding("authority", State.OK, f"{terms.directory_url} answers"))
    tell(_clock(scene.clock_ahead()))
    tell(_profile(terms, directory))
    tell(await _account(scene, directory))
    return directory


def _clock(ahead: float | None) -> Finding:
    if ahead is None:
        return Finding("clock", State.UNSURE, "the authority did not say what time it is")
    if abs(ahead) <= CLOCK_SECONDS:
        return Finding("clock", State.OK, f"within {max(1, round(abs(ahead)))} s of the authority's")
    way = "ahead of" if ahead > 0 else "behind"
    says = f"{abs(ahead):.0f} s {way} the authority's"
    return Finding("clock", State.WRONG, says, "Have the clock set from the network (systemd-timesyncd, chrony).")


def _profile(terms: Terms, directory: Directory) -> Finding:
    if not terms.profile or terms.profile in directory.profiles:
        return Finding("profile", State.OK, terms.profile or "the authority's default")
    offered = ", ".join(directory.profiles) or "none"
    return Finding("profile", State.WRONG, f'"{terms.profile}" is not offered', f"Set profile to one of: {offered}.")


async def _account(scene: Scene, directory: Directory) -> Finding:
    terms = scene.terms
    try:
        await nonce_safe(lambda: scene.authority.register(AccountRequest()))
    except AuthorityFailed as error:
        if getattr(error, "problem", "") != "accountDoesNotExist":
            return Finding("account", State.WRONG, str(error))
    else:
        return Finding("account", State.OK, "there is one")
    if not terms.agrees:
        says = f"there is none, and accept_terms is false; the terms: {directory.terms or 'none'}"
        return Finding("account", State.WRONG, says, "Read the terms, and set accept_terms to true.")
    if directory.needs_binding and terms.binding is None:
        mend = "Get a key of the authority, and set eab_key_id and eab_hmac_key."
        return Finding("account", State.WRONG, "the authority needs external account binding", mend)
    return Finding("account", State.OK, f"none yet; the first order makes one (terms: {directory.terms or 'none'})")


# ---- the domains ---------------------------------------------------------------------------------


async def _addresses(scene: Scene, name: str) -> Finding:
    subject = f"addresses of {name}"
    try:
        found = await scene.resolver.addresses(name)
    except (ResolutionFailed, NameNotFound) as error:
        return _without_address(scene, subject, str(error))
    if not found:
        return _without_address(scene, subject, "there are none")
    private = [each for each in found if not ipaddress.ip_address(each).is_global]
    public = scene.terms.directory_url in (LETS_ENCRYPT, LETS_ENCRYPT_STAGING)
    if private and public and scene.solver.kind is Kind.HTTP:
        says = f"{', '.join(found)}; a public authority does not reach {', '.join(private)}"
        return Finding(subject, State.UNSURE, says, "Give the domain public addresses, or use dns-01.")
    return Finding(subject, State.OK, ", ".join(found))


def _without_address(scene: Scene, subject: str, says: str) -> Finding:
    if scene.solver.kind is Kind.DNS:
        return Finding(subject, State.UNSURE, f"{says}; dns-01 needs none")
    return Finding(subject, State.WRONG, says, "Add an A or AAAA record that leads to this host.")


async def _caa(scene: Scene, name: str, directory: Directory | None) -> Finding:
    subject = f"CAA of {name}"
    try:
        where, records = await scene.caa(name.removeprefix("*."))
    except ResolutionFailed as error:
        return Finding(subject, State.UNSURE, str(error), "An authority that gets no answer issues nothing.")
    if not records:
        return Finding(subject, State.OK, "no records: every authority may issue")
    listed = ", ".join(f'{record.tag} "{record.value}"' for record in records)
    identities = () if directory is None else directory.caa_identities
    if not identities:
        return Finding(subject, State.UNSURE, f"{where} has {listed}; the authority does not say what it goes by")
    if permits(records, identities, wildcard=name.startswith("*.")):
        return Finding(subject, State.OK, f"{where} has {listed}")
    return Finding(
        subject, State.WRONG, f"{where} has {listed}", f'Add a record there: {where}. CAA 0 issue "{identities[0]}"'
    )


# ---- the challenge -------------------------------------------------------------------------------


async def _challenge(scene: Scene, tell: Callable[[Finding], None]) -> None:
    """Meet a challenge of our own, as an order would."""
    token = secrets.token_urlsafe(32)
    answer = f"{token}.{secrets.token_urlsafe(32)}"
    names = dict.fromkeys(each.removeprefix("*.") for each in scene.terms.names)
    tasks = [Task(name, token, answer) for name in names]
    try:
        await scene.solver.put_up(tasks)
        if scene.solver.kind is Kind.DNS:
            tell(Finding("dns-01", State.OK, "the name server took a record, and every server of the zone has it"))
            return
        for task in tasks:
            await _reach(scene, task, tell)
    except ChallengeFailed as error:
        tell(Finding(scene.solver.kind.value, State.WRONG, str(error)))
    finally:
        with trio.move_on_after(CLEAR_SECONDS, shield=True):
            await scene.solver.take_down(tasks)


async def _reach(scene: Scene, task: Task, tell: Callable[[Finding], None]) -> None:
    try:
        addresses: Sequence[str] = await scene.resolver.addresses(task.name)
    except (ResolutionFailed, NameNotFound):
        return
    for address in addresses:
        endpoint = Endpoint(address, scene.http_port)
        tell(await _reached(partial(_fetch, scene.network, endpoint, task), endpoint, task))


async def _reached(fetch: Callable[[], Awaitable[bytes]], endpoint: Endpoint, task: Task) -> Finding:
    subject = f"http-01 of {task.name}"
    mend = "Have port 80 of this address lead to tls.lets_encrypt.http_addr of this host: firewall, NAT, proxy."
    try:
        with trio.fail_after(REACH_SECONDS):
            body = await fetch()
    except trio.TooSlowError:
        says = f"{endpoint} did not answer within {REACH_SECONDS:g} s; some routers reach no inner host from inside"
        return Finding(subject, State.UNSURE, says, mend)
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Finding(subject, State.WRONG, f"{endpoint} is not reached: {reason}", mend)
    except h11.RemoteProtocolError:
        return Finding(subject, State.WRONG, f"{endpoint} answers what is not HTTP", mend)
    if body == task.answer.encode():
        return Finding(subject, State.OK, f"{endpoint} gives our answer")
    return Finding(subject, State.WRONG, f"{endpoint} answers, but not with our answer: another server is there", mend)


async def _fetch(network: Network, endpoint: Endpoint, task: Task) -> bytes:
    """What is at the challenge's address. Raises `OSError`, Trio's resource errors, `h11.RemoteProtocolError`."""
    stream = await network.connect(endpoint)
    async with stream:
        machine = h11.Connection(h11.CLIENT)
        target = (PATH + task.token.encode()).decode("ascii")
        headers = [("Host", task.name), ("Connection", "close"), ("User-Agent", "elemta")]
        request = h11.Request(method="GET", target=target, headers=headers)
        await stream.send_all((machine.send(request) or b"") + (machine.send(h11.EndOfMessage()) or b""))
        body = b""
        while len(body) <= MOST_FILE_OCTETS:
            event = machine.next_event()
            if event is h11.NEED_DATA:
                machine.receive_data(bytes(await stream.receive_some()))
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                break
        return body
