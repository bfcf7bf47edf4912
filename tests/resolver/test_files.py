"""resolv.conf and hosts: what they say, and when they are read again."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from elemta.resolver.files import (
    LOCAL_NAMESERVER,
    RECHECK_SECONDS,
    Nameserver,
    WatchedFile,
    parse_hosts,
    parse_resolv_conf,
)
from elemta.runtime.threads import InlineThreads, T, Ts


@pytest.mark.parametrize(
    ("text", "nameservers"),
    [
        ("", (LOCAL_NAMESERVER,)),
        ("search example.com\noptions edns0\n", (LOCAL_NAMESERVER,)),
        ("nameserver 192.0.2.1\n", (Nameserver("192.0.2.1"),)),
        ("# nameserver 192.0.2.1\nnameserver\nnameserver 2001:db8::1 # first\n", (Nameserver("2001:db8::1"),)),
        ("nameserver fe80::1%lo\n", (Nameserver("fe80::1%lo"),)),
        ("nameserver dns.example.com\nnameserver 192.0.2.1\n", (Nameserver("192.0.2.1"),)),
        (
            "".join(f"nameserver 192.0.2.{n}\n" for n in range(1, 6)),
            (Nameserver("192.0.2.1"), Nameserver("192.0.2.2"), Nameserver("192.0.2.3")),
        ),
    ],
)
def test_resolv_conf(text: str, nameservers: tuple[Nameserver, ...]) -> None:
    assert parse_resolv_conf(text) == nameservers


def test_hosts() -> None:
    text = """
        # comment
        127.0.0.1\tlocalhost  Alias.
        192.0.2.1 a.example b.example # c.example
        2001:db8::1 a.example
        192.0.2.1 a.example
        not-an-address d.example
        192.0.2.9
    """
    assert parse_hosts(text) == {
        "localhost": ("127.0.0.1",),
        "alias": ("127.0.0.1",),
        "a.example": ("192.0.2.1", "2001:db8::1"),
        "b.example": ("192.0.2.1",),
    }


class CountingThreads(InlineThreads):
    """Counts the hops."""

    def __init__(self) -> None:
        self.hops = 0

    async def run(self, limiter: trio.CapacityLimiter | None, function: Callable[[*Ts], T], *args: *Ts) -> T:
        self.hops += 1
        return await super().run(limiter, function, *args)


async def test_a_file_is_read_again_when_it_changed(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    path = tmp_path / "file"
    read: list[str] = []
    threads = CountingThreads()

    def parse(text: str) -> str:
        read.append(text)
        return text

    watched = WatchedFile(str(path), parse, threads=threads)
    assert await watched.value() == ""  # not there yet
    path.write_text("one")
    assert await watched.value() == ""  # not looked at again so soon
    await trio.sleep(RECHECK_SECONDS)
    assert await watched.value() == "one"
    assert await watched.value() == "one"
    await trio.sleep(RECHECK_SECONDS)
    assert await watched.value() == "one"
    assert read.count("one") == 1  # unchanged, so not parsed again
    path.write_text("two")
    os.utime(path, ns=(1, 1))
    await trio.sleep(RECHECK_SECONDS)
    assert await watched.value() == "two"
    path.unlink()
    await trio.sleep(RECHECK_SECONDS)
    assert await watched.value() == ""
    assert threads.hops == 5


async def test_whoever_asks_first_together_waits_for_the_first_reading(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    threads = CountingThreads()
    watched = WatchedFile(str(path), str, threads=threads)
    seen: list[str] = []

    async def look() -> None:
        seen.append(await watched.value())

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(look)
    assert seen == ["one"] * 5
    assert threads.hops == 1
