"""From the options of `elemta send` to mails on their way.

What is not here: the command line (`cli.send`), what is printed (`cli.send_report`). Failure raised: `CommandError`.
"""

import secrets
import sys
import time
from collections.abc import Callable
from typing import Final

from elemta.cli.output import CommandError, ExitCode
from elemta.cli.send import RATE, Given
from elemta.cli.send_message import MAX_FILE_OCTETS, Draft, as_sent, compose, read_file
from elemta.cli.send_report import Report
from elemta.cli.send_run import Errand, NotOpened, find_hops, run_errand
from elemta.cli.send_streams import HeardNetwork, HeardTls
from elemta.cli.submission_point import own_hostname
from elemta.cli.transcript import Transcript
from elemta.config.sections import RouteTls, TimeoutsSection
from elemta.delivery.credentials import Login
from elemta.delivery.hops import Hop
from elemta.delivery.session import ClientOptions, ClientSecurity
from elemta.delivery.tlspolicy import IN_CLEAR, TlsPolicy
from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Recipient
from elemta.mail.headers import header_block
from elemta.mail.ids import make_queue_id
from elemta.net.networks import is_local
from elemta.runtime.threads import WorkerThreads
from elemta.smtp.grammar import AddressError, parse_address, parse_domain, parse_hello

_UNIT_SECONDS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}
_NO_SENDER: Final = "<>"
_BODY: Final = "This is a test mail from elemta send.\n"
_SUBJECT: Final = "Test mail"


async def carry_out(given: Given, report: Report, server: str, password: str) -> None:
    """Send what was asked for, tell the report. Raises `CommandError`."""
    hostname = _hello(given)
    envelope = _envelope(given, hostname)
    write = _writer(given, envelope, hostname)
    octets = write()
    if not header_block(octets).isascii():
        envelope = Envelope(envelope.reverse_path, envelope.recipients, smtputf8=True)
    try:
        hops = await find_hops(server, implicit=given.tls == "implicit")
    except ValueError as error:
        raise CommandError(f"--server {server}: {error}", ExitCode.USAGE) from error
    except OSError as error:
        raise CommandError(f"{server}: {error}", ExitCode.UNREACHABLE) from error
    security = security_of(given, hops, password=password, transcript=report.transcript)
    options = ClientOptions(hostname, TimeoutsSection(), security=security)
    report.begin(server, envelope)
    errand = Errand(hops, options, envelope, count=given.count, pause=_pause(given.rate))
    try:
        await run_errand(errand, HeardNetwork(report.transcript), write=write, settled=report.settled)
    except NotOpened as failure:
        report.not_opened(failure)


def _pause(rate: str | None) -> float:
    """Seconds between two mails."""
    match = RATE.fullmatch(rate or "")
    return _UNIT_SECONDS[match[2]] / int(match[1]) if match else 0.0


# ---- the envelope


def _hello(given: Given) -> str:
    if given.helo is None:
        return own_hostname()
    name = parse_hello(given.helo.encode())
    if name is None:
        raise CommandError(f"--helo {given.helo}: this is no name of a host", ExitCode.USAGE)
    return name


def _envelope(given: Given, hostname: str) -> Envelope:
    words = [word.strip() for each in given.to for word in each.split(",")]
    recipients = tuple(Recipient(_address(word, "--to")) for word in words if word)
    if not recipients:
        raise CommandError("--to names nobody", ExitCode.USAGE)
    if given.sender == _NO_SENDER:
        return Envelope(None, recipients)
    return Envelope(_address(given.sender or _own_address(hostname), "--from"), recipients)


def _own_address(hostname: str) -> str:
    """Ours, at the name that EHLO says where an address may have it. A user's name that is no word stands in quotes."""
    import getpass

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        user = "elemta"
    try:
        return str(Address(user, parse_domain(hostname)))
    except AddressError:
        return str(Address(user, own_hostname()))


def _address(text: str, option: str) -> Address:
    try:
        return parse_address(text)
    except AddressError as error:
        raise CommandError(f"{option} {text}: this is no address: {error}", ExitCode.USAGE) from error


# ---- the mail


def _writer(given: Given, envelope: Envelope, hostname: str) -> Callable[[], bytes]:
    """What makes the next mail: the same one where it was given whole, else one with a Message-ID of its own."""
    if given.raw is not None:
        whole = as_sent(_standard_input() if str(given.raw) == "-" else read_file(given.raw))
        return lambda: whole
    body = given.body if given.body is not None else _BODY
    draft = Draft(
        sender=envelope.sender,
        recipients=tuple(str(recipient.address) for recipient in envelope.recipients),
        subject=given.subject if given.subject is not None else _SUBJECT,
        body=_standard_input().decode("utf-8", "replace") if body == "-" else body,
        headers=given.header,
        files=given.attach,
    )

    def write() -> bytes:
        now = time.time()
        own = make_queue_id(int(now * 1000), secrets.randbits(84))
        return compose(draft, at=now, message_id=f"{own}@{hostname}")

    return write


def _standard_input() -> bytes:
    octets = sys.stdin.buffer.read(MAX_FILE_OCTETS + 1)
    if len(octets) > MAX_FILE_OCTETS:
        raise CommandError(f"standard input has more than {MAX_FILE_OCTETS} octets", ExitCode.USAGE)
    return octets


# ---- TLS and the login


def security_of(given: Given, hops: tuple[Hop, ...], *, password: str, transcript: Transcript) -> ClientSecurity:
    """What is asked of a connection to these addresses."""
    login = None
    if given.user is not None:
        login = Login(given.user, password, unverified=given.insecure, mechanism=(given.auth or "").upper())
    stays_here = all(is_local(hop.endpoint.host) for hop in hops)
    return ClientSecurity(
        policy=_policy(given, stays_here=stays_here),
        tls=HeardTls(WorkerThreads(), transcript),
        tls_name=given.tls_name,
        ca_file=given.ca_file,
        login=login,
    )


def _policy(given: Given, *, stays_here: bool) -> TlsPolicy:
    """As a route has it: a password that leaves this machine asks for a good certificate where nothing else is said."""
    asked = given.tls or ("may" if given.user is None or stays_here else "verify")
    if asked == "none":
        return IN_CLEAR
    implicit = asked == "implicit"
    demand = RouteTls.VERIFY if implicit else RouteTls(asked)
    if given.insecure and demand is RouteTls.VERIFY:
        demand = RouteTls.REQUIRE
    return TlsPolicy(demand, implicit)
