"""Our client against servers that others wrote: Postfix's smtp-sink, aiosmtpd."""

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import structlog
import trio
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Session
from aiosmtpd.smtp import Envelope as Caught

from elemta.config.sections import TimeoutsSection
from elemta.delivery.hops import Hop
from elemta.delivery.pool import ConnectionPool
from elemta.delivery.session import ClientOptions
from elemta.delivery.smarthost import FixedHops
from elemta.delivery.smtp import SmtpTransport
from elemta.mail.outcome import Deferred, Delivered, Outcome
from elemta.net.base import Endpoint
from elemta.net.sockets import SystemNetwork
from tests.delivery.jobs import attempt

CONTENT = b"Subject: dots\r\n\r\n.one\r\n..two\r\n" + b"x" * 76 + b"\r\n"
#: Seconds until a program that was started must accept connections.
START_SECONDS = 10.0
Needs = Callable[[str], Path]


@contextlib.asynccontextmanager
async def smtp_sink(program: Path, *options: str) -> AsyncIterator[Endpoint]:
    """Postfix's sink on a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    as_root = ("-u", "nobody") if os.geteuid() == 0 else ()
    command = [program, *as_root, *options, f"127.0.0.1:{port}", "100"]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with trio.fail_after(START_SECONDS):
            while not await accepts(port):
                assert process.poll() is None, f"{command} ended with {process.returncode}"
        yield Endpoint("127.0.0.1", port)
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


async def accepts(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        await trio.sleep(0.01)
        return False
    await stream.aclose()
    return True


@contextlib.asynccontextmanager
async def transport_to(endpoint: Endpoint, *, lmtp: bool = False) -> AsyncIterator[SmtpTransport]:
    pool = ConnectionPool()
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        yield SmtpTransport(
            FixedHops(Hop("peer.example.net", endpoint)),
            SystemNetwork(),
            pool=pool,
            options=ClientOptions("client.example.org", TimeoutsSection(), lmtp=lmtp),
            log=structlog.get_logger(wrapper_class=structlog.make_filtering_bound_logger("critical")),
        )
        nursery.cancel_scope.cancel()


def brief(outcomes: list[Outcome]) -> list[str]:
    return [f"{type(each).__name__} {each.reply.code}" for each in outcomes]


@pytest.mark.needs("smtp-sink")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "Delivered 250"),
        (("-p",), "Delivered 250"),  # no PIPELINING
        (("-e",), "Delivered 250"),  # no EHLO
        (("-L",), "Delivered 250"),  # LMTP
        (("-q", "mail"), "Deferred 451"),
        (("-q", "."), "Deferred 451"),
        (("-Q", "rcpt"), "Deferred 421"),
        (("-r", "rcpt"), "Deferred 450"),
        (("-r", "."), "Deferred 450"),
        (("-f", "connect"), "Deferred 500"),  # no service now, which says nothing of the mail
        (("-f", "mail"), "Failed 500"),
        (("-f", "rcpt"), "Failed 500"),
        (("-f", "data"), "Failed 500"),
        (("-f", "."), "Failed 500"),
    ],
)
async def test_faults_of_smtp_sink(options: tuple[str, ...], expected: str, needs: Needs) -> None:
    async with smtp_sink(needs("smtp-sink"), *options) as endpoint:
        async with transport_to(endpoint, lmtp="-L" in options) as transport:
            for _ in range(2):
                given = attempt("one@example.net", "two@example.net", content=CONTENT)
                outcomes = list(await transport.deliver(given.job))
                assert brief(outcomes) == [expected] * 2
                lost = [isinstance(each, Deferred) and each.uncertain for each in outcomes]
                assert lost == [options == ("-q", ".")] * 2


@pytest.mark.needs("smtp-sink")
async def test_many_mails_over_few_connections(needs: Needs) -> None:
    """Two hundred mails by ten tasks, some of them large: all delivered, over ten connections at most."""
    network = CountingNetwork()
    delivered: list[str] = []
    async with smtp_sink(needs("smtp-sink")) as endpoint:
        async with transport_to(endpoint) as transport:
            transport.network = network

            async def send(number: int) -> None:
                for turn in range(20):
                    content = CONTENT * (20_000 if turn == number else 10)
                    delivered.extend(
                        brief(list(await transport.deliver(attempt("a@example.net", content=content).job)))
                    )

            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(send, number)
    assert delivered == ["Delivered 250"] * 200
    assert network.connections <= 10


class CountingNetwork(SystemNetwork):
    """The system's network; counts connections."""

    def __init__(self) -> None:
        self.connections = 0

    async def connect(self, endpoint: Endpoint):  # type: ignore[no-untyped-def]  # as the method it wraps
        self.connections += 1
        return await super().connect(endpoint)


class Keeper:
    """An aiosmtpd handler that keeps what it gets."""

    def __init__(self) -> None:
        self.mails: list[Caught] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Caught) -> str:
        self.mails.append(envelope)
        return "250 2.0.0 kept"


@pytest.fixture
def keeper() -> Iterator[tuple[Keeper, Endpoint]]:
    handler = Keeper()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    # asyncio's own: once trio-asyncio is imported, a loop made by default is one of Trio's, which this thread has not.
    loop = asyncio.SelectorEventLoop()
    controller = Controller(handler, hostname="127.0.0.1", port=port, enable_SMTPUTF8=True, loop=loop)
    controller.start()
    try:
        yield handler, Endpoint("127.0.0.1", port)
    finally:
        controller.stop()


async def test_aiosmtpd_gets_every_octet(keeper: tuple[Keeper, Endpoint]) -> None:
    handler, endpoint = keeper
    contents = [CONTENT, b".\r\n", "Subject: é\r\n\r\n..\r\n.ö\r\n".encode(), CONTENT * 8_000, b"\r\n"]
    async with transport_to(endpoint) as transport:
        for content in contents:
            given = attempt("one@example.net", "zwölf@example.net", content=content)
            outcomes = list(await transport.deliver(given.job))
            assert [type(each) for each in outcomes] == [Delivered, Delivered]
    assert [mail.original_content for mail in handler.mails] == contents
    assert {tuple(mail.rcpt_tos) for mail in handler.mails} == {("one@example.net", "zwölf@example.net")}
    assert all("SMTPUTF8" in mail.mail_options for mail in handler.mails)
