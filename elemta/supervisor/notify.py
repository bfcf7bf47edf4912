"""Words to the service manager, as systemd takes them.

What is not here: when they are said (`supervisor.ready`). The protocol is that of sd_notify(3): datagrams of lines to
the socket that NOTIFY_SOCKET names, which Podman and other managers serve too. Failures raised: none; a manager that
does not listen keeps no mail from being served.
"""

import contextlib
import socket
from collections.abc import MutableMapping

import trio
from attrs import frozen

#: Microseconds of a second.
_MICROSECONDS = 1_000_000

#: Seconds that a datagram may wait for room: the manager reads them at once, unless it hangs.
SEND_SECONDS = 1.0


@frozen
class Notifier:
    """Whom to tell. Without an `address` nobody listens."""

    #: A path, or with an `@` in front a name in the abstract namespace, unix(7).
    address: str = ""
    #: Seconds after which a service that was not heard of is taken for hung; None when nobody watches.
    watchdog_seconds: float | None = None

    @classmethod
    def of_environment(cls, environ: MutableMapping[str, str], pid: int) -> "Notifier":
        """What the environment says to the process `pid`; no program that it starts is to hear it again."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", str(pid)) == str(pid)  # without it whoever reads the other is meant
        watchdog = None
        if watched and microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0:
            watchdog = int(microseconds) / _MICROSECONDS
        return cls(address if address.startswith(("/", "@")) else "", watchdog)

    def ready(self, status: str) -> None:
        """It serves, after the start or after a reload."""
        self._tell("READY=1", _status(status))

    def reloading(self, monotonic_nanoseconds: int) -> None:
        """It reads again what may change without a new start. systemd wants to know when, by CLOCK_MONOTONIC."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={monotonic_nanoseconds // 1000}")

    def stopping(self, status: str) -> None:
        """It drains, or ends."""
        self._tell("STOPPING=1", _status(status))

    def alive(self) -> None:
        """Its event loop turns."""
        self._tell("WATCHDOG=1")

    @property
    def pause(self) -> float | None:
        """Seconds from one sign of life to the next, half of what is allowed (sd_watchdog_enabled(3)); else None."""
        return None if self.watchdog_seconds is None or not self.address else self.watchdog_seconds / 2

    def _tell(self, *lines: str) -> None:
        if not self.address:
            return
        name = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(SEND_SECONDS)
            sock.sendto("\n".join(lines).encode(), name)


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())}"


async def keep_alive(notifier: Notifier) -> None:
    """Give a sign of life as often as the manager wants one, until cancelled."""
    pause = notifier.pause
    while pause is not None:
        notifier.alive()
        await trio.sleep(pause)
