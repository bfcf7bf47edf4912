"""Virtual streams: two ends of a connection in memory.

What is not here: who may connect to whom (`simulation.network`).
A connection is two wires. What is sent arrives in order, after the wire's latency, in pieces; a wire holds a bounded
number of octets, then the sender waits. It may break after a given number of octets: what lies before that arrives,
then both ends find it reset. Failures raised: Trio's resource errors, as sockets raise them.
"""

import random
from collections import deque
from math import inf

import trio
from attrs import frozen

from elemta.net.base import RECEIVE_OCTETS, Endpoint, Stream

#: Octets on their way in one direction: what a small kernel buffer takes.
WIRE_OCTETS = 64 * 1024


@frozen
class Latency:
    """Seconds that octets travel: at least `least`, at most `most`."""

    least: float = 0.001
    most: float = 0.010


#: A fast network.
NEAR = Latency()


class Wire:
    """One direction. `chance` draws each piece's latency."""

    def __init__(self, latency: Latency, chance: random.Random) -> None:
        self._latency = latency
        self._chance = chance
        #: What travels: when it arrives, and the octets; None is the orderly end.
        self._pieces: deque[tuple[float, bytes | None]] = deque()
        self._held = 0
        self._last_arrival = 0.0
        self._changed = trio.lowlevel.ParkingLot()
        self.sent = 0
        #: Octets that the receiver took.
        self.taken = 0
        self.reset_after = inf
        #: When the receiver learns that there is nothing more: the connection was reset.
        self.reset_at = inf
        #: When the sender learns that nobody receives any more.
        self.deaf_at = inf
        self.ended = False
        self.silent = False

    def arrival(self) -> float:
        """When what is sent now arrives: never before what was sent earlier."""
        seconds = self._chance.uniform(self._latency.least, self._latency.most)
        self._last_arrival = max(self._last_arrival, trio.current_time() + seconds)
        return self._last_arrival

    def wake(self) -> None:
        """Let both ends look again."""
        self._changed.unpark_all()

    def reset(self) -> None:
        """The receiver finds the connection reset after what is on its way."""
        self.reset_at = min(self.reset_at, self.arrival())
        self.wake()

    @property
    def deaf(self) -> bool:
        """True once the sender knows that nobody receives."""
        return trio.current_time() >= self.deaf_at

    async def put(self, data: bytes) -> bool:
        """Send; False when the wire broke within these octets."""
        while self._held >= WIRE_OCTETS and not self.deaf and self.reset_at == inf:
            await self._wait(self.deaf_at)
        whole = self.sent + len(data) <= self.reset_after
        data = data if whole else data[: int(self.reset_after) - self.sent]
        self.sent += len(data)
        if data and self.deaf_at == inf:
            self._held += len(data)
            self._pieces.append((self.arrival(), data))
            self.wake()
        return whole

    def end(self) -> None:
        """Nothing more will be sent."""
        self.ended = True
        self._pieces.append((self.arrival(), None))
        self.wake()

    async def get(self, limit: int) -> bytes | None:
        """The next octets, empty at the end; None once the connection was reset."""
        while self.deaf_at == inf:
            now = trio.current_time()
            if self._pieces and not self.silent:
                at, data = self._pieces[0]
                if at <= now:
                    return self._take(data, limit)
                await self._wait(at)
            elif self.reset_at <= now and not self.silent:
                return None
            else:
                await self._wait(inf if self.silent else self.reset_at)
        return None  # the receiver itself closed meanwhile

    def _take(self, data: bytes | None, limit: int) -> bytes:
        if data is None:
            return b""  # the end stays: whoever asks again is told again
        at, _ = self._pieces.popleft()
        if len(data) > limit:
            self._pieces.appendleft((at, data[limit:]))
            data = data[:limit]
        self._held -= len(data)
        self.taken += len(data)
        self.wake()
        return data

    async def _wait(self, until: float) -> None:
        if until == inf:
            await self._changed.park()
            return
        with trio.CancelScope(deadline=until):
            await self._changed.park()


class VirtualStream(Stream):
    """One end of a virtual connection."""

    def __init__(self, local: Endpoint, peer: Endpoint, *, out: Wire, into: Wire) -> None:
        self.local = local
        self.peer = peer
        self.out = out
        self.into = into
        self._closed = False
        self._sending = trio.Lock()

    @property
    def is_closed(self) -> bool:
        """True once this end was closed."""
        return self._closed

    @property
    def peer_left(self) -> bool:
        """True from the moment the other end closed, even before this end can know."""
        return self.into.ended or self.into.reset_at < inf or self.out.deaf_at < inf

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At most `max_bytes` octets (`RECEIVE_OCTETS` when None), empty at the peer's end."""
        await trio.lowlevel.checkpoint()
        self._check()
        data = await self.into.get(RECEIVE_OCTETS if max_bytes is None else max_bytes)
        self._check()
        if data is None:
            raise trio.BrokenResourceError("connection reset by peer")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything; into the void when the other end is gone and nobody has heard of it yet."""
        with memoryview(data) as view:
            octets = bytes(view)
        async with self._sending:
            for start in range(0, len(octets), WIRE_OCTETS):
                self._check()
                if self.out.deaf or self.into.reset_at <= trio.current_time():
                    raise trio.BrokenResourceError("connection reset by peer")
                if self.out.ended:
                    raise trio.ClosedResourceError("this end was shut down for sending")
                if not await self.out.put(octets[start : start + WIRE_OCTETS]):
                    self.out.reset()
                    self.into.reset_at = min(self.into.reset_at, trio.current_time())
                    self.into.wake()
                    raise trio.BrokenResourceError("connection reset")

    async def wait_send_all_might_not_block(self) -> None:
        """Return: what does not fit waits in `send_all`."""
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """Say that nothing more comes from here; the other direction stays open."""
        await trio.lowlevel.checkpoint()
        self._check()
        if not self.out.ended:
            self.out.end()

    async def aclose(self) -> None:
        """Close in an orderly way: what was sent still arrives, then the end."""
        self._leave(orderly=True)
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Close at once: what was sent still arrives, then the reset."""
        self._leave(orderly=False)

    def _leave(self, *, orderly: bool) -> None:
        if self._closed:
            return
        self._closed = True
        if not orderly:
            self.out.reset()
        elif not self.out.ended:
            self.out.end()
        # What the other end sends meanwhile is lost; it hears so a journey later.
        self.into.deaf_at = min(self.into.deaf_at, self.out.arrival())
        self.into.wake()
        self.out.wake()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this end was closed")


def connection(
    client: Endpoint, server: Endpoint, *, latency: Latency, chance: random.Random
) -> tuple[VirtualStream, VirtualStream]:
    """The client's and the server's end of a new connection."""
    up, down = Wire(latency, chance), Wire(latency, chance)
    return (
        VirtualStream(client, server, out=up, into=down),
        VirtualStream(server, client, out=down, into=up),
    )
