"""TLS over our streams: both directions, every end, wherever the octets are split."""

import hashlib
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing
import trustme
from hypothesis import given
from hypothesis import strategies as st

from elemta.runtime.threads import WorkerThreads
from elemta.tls.stream import (
    CLOSE_SECONDS,
    RECORD_OCTETS,
    BoundContext,
    CertificateRefused,
    HandshakeFailed,
    TlsStream,
    accept_tls,
    connect_tls,
)
from tests.tls.pairs import (
    CLIENT,
    NAME,
    SERVER,
    Contexts,
    both,
    client_context,
    narrow_pipe,
    pipe,
    sockets,
)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CONTEXTS = Contexts()
#: For pipes on which a send waits for its reader: a client does not read the tickets before it reads.
NARROW = Contexts()
NARROW.server.num_tickets = 0


async def pair() -> tuple[TlsStream, TlsStream]:
    return await CONTEXTS.agree(*pipe())


async def receive_exactly(stream: TlsStream, count: int) -> bytes:
    got = b""
    while len(got) < count:
        data = await stream.receive_some()
        assert data, "the end came too early"
        got += data
    return got


async def failure_of(function: Callable[[], Awaitable[Any]]) -> HandshakeFailed:
    with pytest.raises(HandshakeFailed) as caught:
        await function()
    return caught.value


# ---- octets --------------------------------------------------------------------------------------


async def test_octets_cross_in_both_directions() -> None:
    client, server = await pair()
    await client.send_all(b"EHLO there\r\n")
    assert await server.receive_some() == b"EHLO there\r\n"
    await server.send_all(b"250 hello\r\n")
    assert await client.receive_some() == b"250 hello\r\n"


async def test_the_ends_are_those_of_the_connection() -> None:
    client, server = await pair()
    assert (client.local, client.peer) == (CLIENT, SERVER)
    assert (server.local, server.peer) == (SERVER, CLIENT)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_large_buffers_cross_real_sockets_in_both_directions_at_once(version: ssl.TLSVersion) -> None:
    contexts = Contexts()
    contexts.server.maximum_version = version
    client, server = await contexts.agree(*await sockets())
    assert client.facts.version == version.name.replace("_", ".")
    up, down = os.urandom(3_000_001), os.urandom(3_000_001)
    results: dict[str, bytes] = {}

    async def receive(name: str, stream: TlsStream, count: int) -> None:
        results[name] = await receive_exactly(stream, count)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, "up", server, len(up))
        nursery.start_soon(receive, "down", client, len(down))
        nursery.start_soon(server.send_all, down)
        nursery.start_soon(client.send_all, up)
    assert results == {"up": up, "down": down}
    await client.aclose()
    await server.aclose()


@given(
    sends=st.lists(st.binary(max_size=3 * RECORD_OCTETS), max_size=5),
    piece=st.integers(1, 40_000),
    limit=st.integers(1, 70_000),
)
async def test_splitting_anywhere_changes_nothing(sends: list[bytes], piece: int, limit: int) -> None:
    client_end, server_end = pipe()
    server_end.piece = max(piece, sum(map(len, sends)) // 200)  # one octet at a time of a little, not of a lot
    client_end.piece = piece if piece > 50 else None
    client, server = await CONTEXTS.agree(client_end, server_end)
    for data in sends:
        await client.send_all(data)
    await client.aclose()
    got = b""
    while data := await server.receive_some(limit):
        assert len(data) <= limit
        got += data
    assert got == b"".join(sends)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, RECORD_OCTETS, RECORD_OCTETS + 1, 10 * RECORD_OCTETS + 7])
async def test_every_kind_of_buffer_is_sent_whole(kind: Callable[[bytes], bytes], size: int) -> None:
    client, server = await pair()
    data = os.urandom(size)
    await client.send_all(kind(data))
    await client.send_all(b".")
    assert await receive_exactly(server, size + 1) == data + b"."


async def test_a_small_reply_is_one_send() -> None:
    client_end, server_end = pipe()
    _, server = await CONTEXTS.agree(client_end, server_end)
    before = server_end.sends
    await server.send_all(b"250 ok\r\n")
    assert server_end.sends == before + 1


async def test_what_came_with_the_handshake_is_not_lost() -> None:
    client_end, server_end = pipe()

    async def connect() -> TlsStream:
        stream = await connect_tls(client_end, CONTEXTS.client, server_name=NAME)
        await stream.send_all(b"EHLO early\r\n")
        return stream

    async def accept() -> TlsStream:
        await trio.testing.wait_all_tasks_blocked()
        return await accept_tls(server_end, CONTEXTS.server)

    _, server = await both(connect, accept)
    assert await server.receive_some() == b"EHLO early\r\n"


async def test_every_operation_is_a_checkpoint() -> None:
    client, server = await pair()
    await client.send_all(b"two words")
    assert await server.receive_some(4) == b"two "
    with trio.testing.assert_checkpoints():
        assert await server.receive_some() == b"words"
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.send_all(b"never")
    assert scope.cancelled_caught
    await client.send_all(b"later")  # nothing had begun
    assert await server.receive_some() == b"later"
    await client.aclose()
    for _ in range(2):
        with trio.testing.assert_checkpoints():
            assert await server.receive_some() == b""
    for _ in range(2):
        with trio.testing.assert_checkpoints():
            await server.aclose()


async def test_one_task_may_send_while_another_receives() -> None:
    client, server = await NARROW.agree(*narrow_pipe())
    got: list[bytes] = []

    async def receive() -> None:
        got.append(await client.receive_some())

    async def echo() -> None:
        data = await receive_exactly(server, 100_000)
        await server.send_all(data[:7])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(echo)
        await trio.testing.wait_all_tasks_blocked()
        await client.send_all(bytes(100_000))
    assert got == [bytes(7)]


async def test_what_reading_makes_us_say_is_sent() -> None:
    """The answer to a KeyUpdate, a warning: OpenSSL leaves them where what we encrypt lies, and does not say so."""
    client, server = await pair()
    server._tls.write(b"made by reading")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.receive_some)
        assert await client.receive_some() == b"made by reading"
        await client.aclose()


async def test_what_reading_makes_us_say_goes_with_what_is_sent_already() -> None:
    client_end, server_end = narrow_pipe()
    client, server = await NARROW.agree(client_end, server_end)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, b"first ")
        await trio.testing.wait_all_tasks_blocked()
        server._tls.write(b"second ")
        nursery.start_soon(server.receive_some)
        nursery.start_soon(server.send_all, b"third")
        await trio.testing.wait_all_tasks_blocked()
        assert await receive_exactly(client, 18) == b"first second third"
        await client.aclose()


async def test_a_sender_waits_for_what_a_receiver_sends() -> None:
    client_end, server_end = narrow_pipe()
    client, server = await NARROW.agree(client_end, server_end)
    server._tls.write(b"made by reading, ")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(server.send_all, b"then sent")
        await trio.testing.wait_all_tasks_blocked()
        assert await receive_exactly(client, 26) == b"made by reading, then sent"
        await client.aclose()


# ---- ends ----------------------------------------------------------------------------------------


async def test_close_notify_is_the_end_and_stays_it() -> None:
    client, server = await pair()
    await client.send_all(b"last")
    await client.aclose()
    assert await server.receive_some() == b"last"
    assert await server.receive_some() == b""
    assert await server.receive_some() == b""


async def test_a_connection_that_just_ends_counts_as_ended() -> None:
    client_end, server_end = pipe()
    client, server = await CONTEXTS.agree(client_end, server_end)
    await client.send_all(b"last")
    await client_end.aclose()
    assert await server.receive_some() == b"last"
    assert await server.receive_some() == b""


async def test_a_connection_that_ends_inside_a_record_counts_as_ended() -> None:
    client_end, server_end = pipe()
    client, server = await CONTEXTS.agree(client_end, server_end)
    cut_end, cut_server_end = pipe()
    client._inner = cut_end
    server._inner = cut_server_end
    await client.send_all(b"never whole")
    record = await cut_server_end.receive_some()
    await cut_end.inner.send_all(record[:-1])
    await cut_end.aclose()
    assert await server.receive_some() == b""


async def test_a_changed_record_breaks_the_stream() -> None:
    client_end, server_end = pipe()
    client, server = await CONTEXTS.agree(client_end, server_end)
    await client_end.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(trio.BrokenResourceError, match="TLS failed"):
        await server.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"250 ok\r\n")
    await server.aclose()
    with pytest.raises(trio.BrokenResourceError, match="bad record mac"):  # the alert got through
        await client.receive_some()


async def test_half_of_it_may_be_closed() -> None:
    client, server = await pair()
    await client.send_eof()
    assert await server.receive_some() == b""
    await server.send_all(b"still here")
    assert await client.receive_some() == b"still here"


async def test_closing_does_not_wait_for_the_peers_own_end() -> None:
    client, server = await pair()
    with trio.fail_after(10):
        await server.aclose()
    assert await client.receive_some() == b""
    for operation in (server.receive_some, lambda: server.send_all(b"x"), server.send_eof):
        with pytest.raises(trio.ClosedResourceError):
            await operation()


async def test_closing_is_bounded_when_the_peer_reads_nothing(autojump_clock: trio.testing.MockClock) -> None:
    client_end, server_end = narrow_pipe()
    _, server = await NARROW.agree(client_end, server_end)
    await server.aclose()
    assert trio.current_time() == CLOSE_SECONDS
    assert server_end.closed


async def test_closing_beside_a_stuck_send_closes_at_once(autojump_clock: trio.testing.MockClock) -> None:
    client_end, server_end = narrow_pipe()
    _, server = await NARROW.agree(client_end, server_end)
    raised: list[type[BaseException]] = []

    async def send() -> None:
        try:
            await server.send_all(b"x" * 100_000)
        except trio.ClosedResourceError as error:
            raised.append(type(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        await server.aclose()
    assert trio.current_time() == 0
    assert raised == [trio.ClosedResourceError]


async def test_after_a_cut_send_nothing_more_is_sent(autojump_clock: trio.testing.MockClock) -> None:
    client_end, server_end = narrow_pipe()
    _, server = await NARROW.agree(client_end, server_end)
    with trio.move_on_after(1):
        await server.send_all(b"never read")
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"more")
    before = server_end.octets
    await server.aclose()
    assert server_end.octets == before


async def test_an_abort_is_passed_on() -> None:
    client_end, server_end = pipe()
    _, server = await CONTEXTS.agree(client_end, server_end)
    server.abort()
    assert server_end.aborted
    with pytest.raises(trio.ClosedResourceError):
        await server.receive_some()


# ---- facts ---------------------------------------------------------------------------------------


async def test_both_sides_know_what_they_agreed_on() -> None:
    client, server = await pair()
    for facts in (client.facts, server.facts):
        assert facts.version == "TLSv1.3"
        assert facts.cipher.startswith("TLS_")
        assert facts.server_name == NAME
        assert not facts.resumed
    assert client.facts.peer_fingerprint == hashlib.sha256(client.facts.peer_certificate).hexdigest()
    assert server.facts.peer_certificate == b""
    assert server.facts.peer_fingerprint == ""


async def test_a_context_is_chosen_by_the_name() -> None:
    asked: list[str] = []
    context = BoundContext(ssl.PROTOCOL_TLS_SERVER)
    CONTEXTS.authority.issue_cert("other.example.com").configure_cert(context)
    context.binding = b"digest"

    def choose(name: str) -> ssl.SSLContext:
        asked.append(name)
        return context

    client_end, server_end = pipe()
    client, server = await both(
        lambda: connect_tls(client_end, CONTEXTS.client, server_name="OTHER.example.com"),
        lambda: accept_tls(server_end, choose),
    )
    assert asked == [server.facts.server_name] == ["other.example.com"]
    assert server.facts.binding == b"digest"
    assert client.facts.binding == b""


async def test_a_client_certificate_is_among_the_facts() -> None:
    contexts = Contexts()
    contexts.server.verify_mode = ssl.CERT_OPTIONAL
    contexts.authority.configure_trust(contexts.server)
    mine = contexts.authority.issue_cert("client.example.com")
    mine.configure_cert(contexts.client)
    _, server = await contexts.agree(*pipe())
    der = ssl.PEM_cert_to_DER_cert(mine.cert_chain_pems[0].bytes().decode())
    assert server.facts.peer_fingerprint == hashlib.sha256(der).hexdigest()
    assert "peer_certificate" not in repr(server.facts)


# ---- handshakes that fail ------------------------------------------------------------------------


async def test_an_unknown_authority_is_refused_and_both_sides_hear_why() -> None:
    client_end, server_end = pipe()
    stranger = client_context(trustme.CA())
    failures = await both(
        lambda: failure_of(lambda: connect_tls(client_end, stranger, server_name=NAME)),
        lambda: failure_of(lambda: accept_tls(server_end, CONTEXTS.server)),
    )
    assert isinstance(failures[0], CertificateRefused)
    assert "not trusted" in str(failures[0])
    assert "unknown ca" in str(failures[1])
    assert client_end.closed
    assert server_end.aborted


async def test_another_name_is_refused() -> None:
    client_end, server_end = pipe()
    failures = await both(
        lambda: failure_of(lambda: connect_tls(client_end, CONTEXTS.client, server_name="other.example.com")),
        lambda: failure_of(lambda: accept_tls(server_end, CONTEXTS.server)),
    )
    assert isinstance(failures[0], CertificateRefused)
    assert "other.example.com" in str(failures[0])


@pytest.mark.parametrize(
    "text", [b"EHLO in the clear\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", bytes(300)]
)
async def test_a_client_that_speaks_no_tls_is_told_so(text: bytes) -> None:
    client_end, server_end = pipe()
    await client_end.send_all(text)
    failure = await failure_of(lambda: accept_tls(server_end, CONTEXTS.server))
    assert str(failure)
    assert "_ssl.c" not in str(failure)
    assert server_end.closed


@pytest.mark.parametrize("heard", [b"", b"\x16\x03\x01"])
async def test_a_peer_that_leaves_is_a_failure(heard: bytes) -> None:
    client_end, server_end = pipe()
    await client_end.send_all(heard)
    await client_end.aclose()
    failure = await failure_of(lambda: accept_tls(server_end, CONTEXTS.server))
    assert str(failure) == "the peer closed the connection in the handshake"
    assert server_end.aborted


async def test_a_connection_that_breaks_is_a_failure() -> None:
    client, server = await sockets()
    client.abort()
    failure = await failure_of(lambda: accept_tls(server, CONTEXTS.server))
    assert str(failure) == "the connection broke in the handshake"


async def test_a_name_that_cannot_be_asked_for_is_a_failure() -> None:
    client_end, _ = pipe()
    failure = await failure_of(lambda: connect_tls(client_end, CONTEXTS.client, server_name=".example.com"))
    assert ".example.com" in str(failure)
    assert client_end.aborted


async def test_a_deadline_closes_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    client_end, server_end = pipe()
    with trio.move_on_after(30) as scope:
        await accept_tls(server_end, CONTEXTS.server)
    assert scope.cancelled_caught
    assert server_end.aborted
    with pytest.raises(trio.BrokenResourceError):
        await client_end.send_all(b"too late")


# ---- threads -------------------------------------------------------------------------------------


class CountedThreads(WorkerThreads):
    """Counts the hops."""

    def __init__(self) -> None:
        self.hops = 0

    async def run(self, limiter: trio.CapacityLimiter | None, function: Callable[[*Ts], T], *args: *Ts) -> T:
        self.hops += 1
        assert limiter is not None
        assert limiter.borrowed_tokens == 0
        return await super().run(limiter, function, *args)


async def accept_with(threads: CountedThreads, contexts: Contexts) -> TlsStream:
    limiter = trio.CapacityLimiter(1)
    client_end, server_end = pipe()
    _, server = await both(
        lambda: connect_tls(client_end, contexts.client, server_name=NAME),
        lambda: accept_tls(server_end, contexts.server, threads=threads, limiter=limiter),
    )
    return server


async def test_the_costly_step_of_a_handshake_goes_to_a_thread_alone() -> None:
    threads = CountedThreads()
    await accept_with(threads, CONTEXTS)
    assert threads.hops == 1


async def test_a_client_that_must_ask_twice_costs_a_thread_twice() -> None:
    """RFC 8446 §4.1.4: the first hello brings no key that we take, so the costly step is the second one."""
    contexts = Contexts()
    contexts.server.set_ecdh_curve("secp384r1")
    threads = CountedThreads()
    await accept_with(threads, contexts)
    assert threads.hops == 2


async def test_a_client_may_use_threads_too() -> None:
    threads, limiter = CountedThreads(), trio.CapacityLimiter(1)
    client_end, server_end = pipe()
    client, _ = await both(
        lambda: connect_tls(client_end, CONTEXTS.client, server_name=NAME, threads=threads, limiter=limiter),
        lambda: accept_tls(server_end, CONTEXTS.server),
    )
    assert threads.hops == 1
    assert client.facts.version == "TLSv1.3"


async def test_a_failure_in_a_thread_is_a_failure() -> None:
    client_end, server_end = pipe()
    await client_end.send_all(b"\x16\x03\x01\x00\x05hello")
    failure = await failure_of(
        lambda: accept_tls(server_end, CONTEXTS.server, threads=CountedThreads(), limiter=trio.CapacityLimiter(1))
    )
    assert str(failure)
