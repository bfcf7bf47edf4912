"""A service manager as systemd is one: it binds sockets, starts the server with them, hears how it is.

What is not here: assertions.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.peers.wire import PATIENCE_SECONDS

#: Takes the descriptors of its first argument, becomes the program of the others: LISTEN_PID is known no sooner.
_LAUNCHER = """
import fcntl, os, sys
given = [fcntl.fcntl(int(text), fcntl.F_DUPFD_CLOEXEC, 100) for text in sys.argv[1].split(",") if text]
for place, descriptor in enumerate(given, start=3):
    os.dup2(descriptor, place)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given)), "WATCHDOG_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Manager:
    """Starts `elemta run` in `folder`, as often as it is told; what it said to us is in `heard`."""

    def __init__(self, folder: Path, config: Mapping[str, Any], sockets: Sequence[socket.socket] = ()) -> None:
        self._folder = folder
        self._sockets = sockets
        self._environ: dict[str, str] = {}
        self.program: Sequence[str] = ("-m", "elemta")
        full = {"hostname": "mx.example.com", "queue_dir": "./queue", "web": {"enabled": False}, **config}
        (folder / "elemta.conf").write_text(json.dumps(full))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._process: subprocess.Popen[bytes] | None = None
        self.heard: list[dict[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._socket.close()

    def start(self, **environ: str) -> None:
        """Start, without waiting."""
        descriptors = [sock.fileno() for sock in self._sockets]
        with (self._folder / "elemta.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCHER, ",".join(map(str, descriptors)), *self.program, "run"],
                env={**os.environ, "NOTIFY_SOCKET": str(self._folder / "notify"), **environ},
                cwd=self._folder,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
                start_new_session=True,
            )

    def hear(self, wanted: str) -> dict[str, str]:
        """The next message with this assignment. Raises `AssertionError` with the log when none comes in time."""
        name, _, value = wanted.partition("=")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                message = self._socket.recv(65536).decode()
            except TimeoutError:
                raise AssertionError(f"{wanted} was not heard, but {self.heard}; the log:\n{self.log}") from None
            self.heard.append(dict(line.split("=", 1) for line in message.splitlines()))
            if self.heard[-1].get(name) == value:
                return self.heard[-1]

    @property
    def has_silence(self) -> bool:
        """True when nothing was said that `hear` has not taken."""
        self._socket.setblocking(False)
        try:
            self.heard.append({"unasked": self._socket.recv(65536).decode()})
        except BlockingIOError:
            return True
        return False

    @property
    def log(self) -> str:
        """What all servers of this folder wrote."""
        return (self._folder / "elemta.log").read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; its exit status."""
        assert self._process is not None
        return self._process.wait(PATIENCE_SECONDS)
