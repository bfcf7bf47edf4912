"""What `elemta send` asks of a connection, and which address it goes on to."""

from typing import Any

import pytest

from elemta.cli.output import Output
from elemta.cli.send import Given
from elemta.cli.send_plan import security_of
from elemta.cli.send_run import Errand, NotOpened, find_hops, run_errand
from elemta.cli.send_streams import HeardNetwork
from elemta.cli.transcript import Line, Side, Transcript
from elemta.config.sections import RouteTls, TimeoutsSection
from elemta.delivery.hops import Hop
from elemta.delivery.session import ClientOptions
from elemta.delivery.tlspolicy import IN_CLEAR, TlsPolicy
from elemta.mail.address import Address
from elemta.mail.envelope import Envelope, Recipient
from elemta.net.base import Endpoint, Stream
from tests.cli.send_server import ScriptedServer

HERE = (Hop("localhost", Endpoint("127.0.0.1", 25)),)
ELSEWHERE = (Hop("mail.example.com", Endpoint("192.0.2.1", 25)), *HERE)


def given(**options: Any) -> Given:
    nothing = dict.fromkeys(("sender", "server", "subject", "body", "raw", "auth", "user", "tls", "helo", "rate"))
    rest = {"header": (), "attach": (), "tls_name": "", "ca_file": "", "insecure": False, "count": 1}
    return Given(**{**nothing, **rest, "to": ("jo@x.org",), "output": Output.TABLE, **options})


@pytest.mark.parametrize(
    ("options", "hops", "policy"),
    [
        ({}, HERE, TlsPolicy(RouteTls.MAY)),
        ({}, ELSEWHERE, TlsPolicy(RouteTls.MAY)),
        ({"user": "jo"}, HERE, TlsPolicy(RouteTls.MAY)),
        ({"user": "jo"}, ELSEWHERE, TlsPolicy(RouteTls.VERIFY)),
        ({"user": "jo", "insecure": True}, ELSEWHERE, TlsPolicy(RouteTls.REQUIRE)),
        ({"tls": "none", "user": "jo"}, ELSEWHERE, IN_CLEAR),
        ({"tls": "may", "user": "jo"}, ELSEWHERE, TlsPolicy(RouteTls.MAY)),
        ({"tls": "require"}, HERE, TlsPolicy(RouteTls.REQUIRE)),
        ({"tls": "verify"}, HERE, TlsPolicy(RouteTls.VERIFY)),
        ({"tls": "implicit"}, HERE, TlsPolicy(RouteTls.VERIFY, implicit=True)),
        ({"tls": "implicit", "insecure": True}, HERE, TlsPolicy(RouteTls.REQUIRE, implicit=True)),
    ],
)
async def test_which_tls_is_asked_for(options: dict[str, Any], hops: tuple[Hop, ...], policy: TlsPolicy) -> None:
    security = security_of(given(**options), hops, password="secret", transcript=Transcript(print))
    assert security.policy == policy
    assert (security.login is not None) == ("user" in options)
    if security.login is not None:
        assert security.login.unverified == options.get("insecure", False)


@pytest.mark.parametrize(
    ("server", "implicit", "endpoint"),
    [
        ("127.0.0.1", False, Endpoint("127.0.0.1", 25)),
        ("127.0.0.1", True, Endpoint("127.0.0.1", 465)),
        ("127.0.0.1:2525", True, Endpoint("127.0.0.1", 2525)),
        ("[::1]", False, Endpoint("::1", 25)),
        ("[::1]:26", False, Endpoint("::1", 26)),
        ("unix:/run/smtp", False, Endpoint("/run/smtp")),
    ],
)
async def test_how_a_server_is_named(server: str, implicit: bool, endpoint: Endpoint) -> None:
    (hop,) = await find_hops(server, implicit=implicit)
    assert hop.endpoint == endpoint


@pytest.mark.parametrize("server", ["::1", "host:port", "host:65536"])
async def test_what_names_no_server(server: str) -> None:
    with pytest.raises((ValueError, OSError)):
        await find_hops(server, implicit=False)


def errand(*addresses: str, user: str | None = None) -> tuple[Errand, list[Line]]:
    """A mail for whichever of these servers takes it."""
    lines: list[Line] = []
    hops = tuple(Hop("scripted", Endpoint("127.0.0.1", int(address.rpartition(":")[2]))) for address in addresses)
    security = security_of(given(user=user), hops, password="secret", transcript=Transcript(lines.append))
    options = ClientOptions("me", TimeoutsSection(), security=security)
    return Errand(hops, options, Envelope(None, (Recipient(Address("jo", "x.org")),))), lines


async def test_the_next_address_is_asked_when_the_first_does_not_serve_us() -> None:
    with ScriptedServer({"": b"421 4.3.2 busy\r\n"}) as busy, ScriptedServer() as free:
        job, lines = errand(busy.address, free.address)
        await run_errand(job, HeardNetwork(Transcript(lines.append)), write=lambda: b"Subject: s\r\n", settled=len)
    assert len(free.contents) == 1
    notes = [line.text for line in lines if line.side is Side.NOTE]
    assert notes == [f"connected to {busy.address}", f"connected to {free.address}"]


async def test_a_login_that_was_refused_is_not_tried_at_the_next_address() -> None:
    answers = {"EHLO": b"250-scripted\r\n250 AUTH PLAIN\r\n", "AUTH": b"535 5.7.8 wrong\r\n"}
    with ScriptedServer(answers) as server:
        job, lines = errand(server.address, server.address, user="jo")
        with pytest.raises(NotOpened, match=r"535 5\.7\.8 wrong") as refused:
            await run_errand(job, HeardNetwork(Transcript(lines.append)), write=lambda: b"", settled=len)
    assert refused.value.is_login
    assert sum(line.startswith("AUTH") for line in server.commands) == 1


class Elsewhere(HeardNetwork):
    """A network where the address of another machine leads to a server of ours."""

    def __init__(self, server: ScriptedServer, transcript: Transcript) -> None:
        super().__init__(transcript)
        self._end = Endpoint("127.0.0.1", int(server.address.rpartition(":")[2]))

    async def connect(self, endpoint: Endpoint) -> Stream:
        assert endpoint == ELSEWHERE[0].endpoint
        return await super().connect(self._end)


@pytest.mark.parametrize("insecure", [False, True])
async def test_a_password_goes_to_another_machine_in_clear_only_where_that_is_asked_for(insecure: bool) -> None:
    answers = {"EHLO": b"250-scripted\r\n250 AUTH PLAIN\r\n", "AUTH": b"235 2.7.0 ok\r\n"}
    transcript = Transcript(print)
    security = security_of(
        given(user="jo", tls="none", insecure=insecure), ELSEWHERE[:1], password="secret", transcript=transcript
    )
    options = ClientOptions("me", TimeoutsSection(), security=security)
    job = Errand(ELSEWHERE[:1], options, Envelope(None, (Recipient(Address("jo", "x.org")),)))
    with ScriptedServer(answers) as server:
        network = Elsewhere(server, transcript)
        if insecure:
            await run_errand(job, network, write=lambda: b"Subject: s\r\n", settled=len)
        else:
            with pytest.raises(NotOpened, match="the password is not sent"):
                await run_errand(job, network, write=lambda: b"Subject: s\r\n", settled=len)
    assert any(line.startswith("AUTH") for line in server.commands) == insecure
