"""A real server process for tests.

What is not here: the simulated world, which needs no process. The server is the installed `elemta run` with a
configuration of its own in a folder of its own, on ports the system chooses.
Failures raised: `ServerFailed` with what the server wrote to its log.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

#: Seconds from start to every listener accepting; recovery of a large queue included.
READY_SECONDS = 30.0
#: Seconds from SIGTERM to exit: the server's default drain, and a margin.
STOP_SECONDS = 40.0


class ServerFailed(Exception):
    """The server did not start, or did not stop; the text ends with its log."""


class ServerProcess:
    """`elemta run` in a process group of its own, ended with the `with` block.

    `folder` keeps configuration, queue and log, so that a second one on the same folder is a restart.
    """

    #: What Python runs.
    program: Sequence[str] = ("-m", "elemta")

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self._config_path = folder / "elemta.conf"
        self._log_path = folder / "elemta.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, Any] = {}
        self.configure(config)

    def configure(self, config: Mapping[str, Any] | str) -> None:
        """Write the configuration, which the next start reads, or a SIGHUP; a text is written as it is."""
        if not isinstance(config, str):
            full = {"queue_dir": str(self.folder / "queue"), **config}
            if "listeners" not in full:
                full.setdefault("listen_addr", "127.0.0.1:0")
            full.setdefault("web", {"enabled": False})
            config = json.dumps(full)
        self._config_path.write_text(config)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.kill()

    def start(self, *options: str) -> Self:
        """Start, and wait until every listener accepts."""
        read_end, write_end = os.pipe()
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *self.program,
                    "run",
                    "-c",
                    self._config_path,
                    "--ready-fd",
                    str(write_end),
                    *options,
                ],
                stderr=log,
                stdout=log,
                stdin=subprocess.DEVNULL,
                pass_fds=(write_end,),
                start_new_session=True,
                cwd=self.folder,
            )
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            self.ready = json.loads(self._first_line(pipe.fileno()))
        return self

    def _first_line(self, descriptor: int) -> bytes:
        line = b""
        deadline = time.monotonic() + READY_SECONDS
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(descriptor, 65536) if ready else b""
            if not piece:
                self.kill()
                raise ServerFailed(f"the server did not start:\n{self.log}")
            line += piece
        return line

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def port(self) -> int:
        """The port of the first listener."""
        return int(self.ready["listeners"][0]["port"])

    @property
    def log(self) -> str:
        """What all servers of this folder wrote."""
        return self._log_path.read_text(errors="replace")

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log's events that are JSON, oldest first."""
        whole, _, _ = self.log.rpartition("\n")  # the last line may be under way
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def terminate(self) -> None:
        """Ask it to drain and end."""
        os.kill(self.pid, signal.SIGTERM)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for its end; its exit status."""
        assert self._process is not None
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"the server did not stop:\n{self.log}") from None
        self._process = None
        return status

    def stop(self) -> int:
        """Drain, end, and return its exit status."""
        self.terminate()
        return self.wait()

    def kill(self) -> None:
        """End the whole process group at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
