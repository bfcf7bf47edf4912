"""What TLS costs by itself, and what a flood of handshakes does to those who speak in clear.

    python -m tests.bench.bench_tls [--rounds 3]

`exchange` is 40 octets there and back between two tasks of this process, `large` is megabytes one way: in clear, over
our stream, over trio.SSLStream. `flood` is a small server in this process, flooded with handshakes by openssl's s_time
(RSA keys, eight at a time), while a client in a process of its own exchanges lines with it in clear: with the costly
step of a handshake on the event loop, in one thread, in two. Needs openssl.
"""

import argparse
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import trio
import trustme
from rich.console import Console
from rich.table import Table

from elemta.net.base import Stream
from elemta.net.sockets import SystemNetwork
from elemta.runtime.threads import WorkerThreads
from elemta.tls.stream import HandshakeFailed, accept_tls, connect_tls

NAME = "mail.example.com"
LINE = b"x" * 38 + b"\r\n"
EXCHANGES = 2000
LARGE_OCTETS = 1_000_000
LARGE_TIMES = 20
FLOODERS = 8
FLOOD_SECONDS = 5
THREADS = WorkerThreads()

#: The client in clear: a line there and back every 5 ms; the 95th percentile in milliseconds.
_PROBE = """
import socket, statistics, sys, threading, time
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as peer:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    waits, end = [], time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        began = time.monotonic()
        peer.sendall(b"ping\\r\\n")
        peer.recv(100)
        waits.append(time.monotonic() - began)
        threading.Event().wait(0.005)
    print(statistics.quantiles(waits, n=20)[-1] * 1000)
"""


def contexts(key: trustme.KeyType) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's, and a client's that trusts it."""
    authority = trustme.CA(key_type=key)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert(NAME, key_type=key).configure_cert(server)
    authority.configure_trust(client)
    return server, client


# ---- streams -------------------------------------------------------------------------------------

Ends = tuple[trio.abc.Stream, trio.abc.Stream]


@asynccontextmanager
async def connected(kind: str) -> AsyncIterator[Ends]:
    """Two ends of one connection on loopback."""
    network = SystemNetwork()
    (listener,) = await network.listen("127.0.0.1:0", 1)
    near = await network.connect(listener.local)
    far = await listener.accept()
    listener.close()
    async with AsyncExitStack() as stack:
        stack.callback(near.abort)
        stack.callback(far.abort)
        yield await _encrypted(kind, near, far)


async def _encrypted(kind: str, near: Stream, far: Stream) -> Ends:
    if kind == "clear":
        return near, far
    server, client = contexts(trustme.KeyType.ECDSA)
    if kind == "trio.SSLStream":
        ends = (
            trio.SSLStream(near, client, server_hostname=NAME, https_compatible=True),
            trio.SSLStream(far, server, server_side=True, https_compatible=True),
        )
        async with trio.open_nursery() as nursery:
            for end in ends:
                nursery.start_soon(end.do_handshake)
        return ends
    found: dict[str, Stream] = {}

    async def keep(name: str, shake: Callable[[], object]) -> None:
        found[name] = await shake()  # type: ignore[misc]  # one of the two below

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep, "near", partial(connect_tls, near, client, server_name=NAME))
        nursery.start_soon(keep, "far", partial(accept_tls, far, server))
    return found["near"], found["far"]


async def exchange(kind: str) -> float:
    """Microseconds for a line there and back."""
    async with connected(kind) as (near, far), trio.open_nursery() as nursery:

        async def answer() -> None:
            while True:
                await far.send_all(await far.receive_some(4096))

        nursery.start_soon(answer)
        began = time.perf_counter()
        for _ in range(EXCHANGES):
            await near.send_all(LINE)
            await near.receive_some(4096)
        took = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    return took / EXCHANGES * 1e6


async def large(kind: str) -> float:
    """Megabytes a second, one way."""
    async with connected(kind) as (near, far), trio.open_nursery() as nursery:
        data = bytes(LARGE_OCTETS)

        async def send() -> None:
            for _ in range(LARGE_TIMES):
                await near.send_all(data)

        nursery.start_soon(send)
        began, left = time.perf_counter(), LARGE_OCTETS * LARGE_TIMES
        while left:
            left -= len(await far.receive_some(65536))
        took = time.perf_counter() - began
    return LARGE_TIMES / took


# ---- a flood -------------------------------------------------------------------------------------


async def flood(threads: int | None, flooders: int) -> tuple[float, float]:
    """The clear client's 95th percentile in milliseconds, and handshakes a second."""
    server, _ = contexts(trustme.KeyType.RSA)
    limiter = None if threads is None else trio.CapacityLimiter(threads)
    shaken = 0

    async def shake(stream: Stream) -> None:
        nonlocal shaken
        try:
            encrypted = await accept_tls(stream, server, threads=THREADS if threads else None, limiter=limiter)
            await encrypted.aclose()
        except (HandshakeFailed, trio.BrokenResourceError):
            pass  # s_time hangs up as soon as it has shaken hands, often before our last flight is out
        shaken += 1

    async def echo(stream: Stream) -> None:
        while data := await stream.receive_some(100):
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        in_clear = await _serve(echo, nursery)
        encrypted = await _serve(shake, nursery)
        command = ["openssl", "s_time", "-connect", f"127.0.0.1:{encrypted}", "-new", "-time", str(FLOOD_SECONDS)]
        for _ in range(flooders):
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            nursery.start_soon(partial(trio.run_process, command, check=False, **quiet))
        probe = [sys.executable, "-c", _PROBE, str(in_clear), str(FLOOD_SECONDS - 1)]
        found = await trio.run_process(probe, capture_stdout=True)
        rate = shaken / (FLOOD_SECONDS - 1)
        nursery.cancel_scope.cancel()
    return float(found.stdout), rate


async def _serve(serve: Callable[[Stream], object], nursery: trio.Nursery) -> int:
    (listener,) = await SystemNetwork().listen("127.0.0.1:0", socket.SOMAXCONN)

    async def accept() -> None:
        while True:
            nursery.start_soon(serve, await listener.accept())  # type: ignore[arg-type]  # a coroutine function

    nursery.start_soon(accept)
    return listener.local.port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = range(parser.parse_args().rounds)
    kinds = ("clear", "elemta", "trio.SSLStream")
    table = Table("", *kinds, title=f"streams, medians of {len(rounds)}")
    for name, measure in (("exchange, µs", exchange), ("large, MB/s", large)):
        samples = {kind: [] for kind in kinds}  # type: dict[str, list[float]]
        for _ in rounds:
            for kind in kinds:
                samples[kind].append(trio.run(measure, kind))
        table.add_row(name, *(f"{statistics.median(samples[kind]):.0f}" for kind in kinds))
    Console().print(table)
    table = Table("handshakes", "clear p95, ms", "handshakes/s", title=f"flood, medians of {len(rounds)}")
    cases = {"none": (1, 0), "on the event loop": (None, FLOODERS), "in 1 thread": (1, FLOODERS), "in 2": (2, FLOODERS)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in rounds:
        for name, (threads, flooders) in cases.items():
            found[name].append(trio.run(flood, threads, flooders))
    for name, samples_of in found.items():
        waits, rates = zip(*samples_of, strict=True)
        table.add_row(name, f"{statistics.median(waits):.1f}", f"{statistics.median(rates):.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
