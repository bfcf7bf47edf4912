"""A real HAProxy in front of a server.

What is not here: assertions. It runs in the foreground as whoever runs the tests; its configuration is made of a few
ways in, each with what it says to the server.
Failures raised: `TimeoutError` with what HAProxy said.
"""

import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.wire import free_port, wait_until

_GLOBAL = """
global
    maxconn 200
    stats socket {folder}/stats.sock

defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
"""

_WAY = """
listen {name}
    bind 127.0.0.1:{port}
    {check}
    {rules}
    server elemta {server} {options}
"""

#: HAProxy's own dialogue with an SMTP server, at its shortest pace for tests.
_CHECK = "option smtpchk EHLO haproxy.example"
_PACE = "check inter 200ms rise 1 fall 1"


class HAProxy:
    """Runs while entered. `ways` are the options of a `server` line by the name of its way in, `to` where they lead.

    `rules` are further lines of each way.
    """

    def __init__(
        self, program: Path, folder: Path, ways: Mapping[str, str], *, to: int, rules: Sequence[str] = ()
    ) -> None:
        self.ports = {name: free_port() for name in ways}
        self._program = program
        self._folder = folder
        self._log = folder / "haproxy.log"
        self._process: subprocess.Popen[bytes] | None = None
        text = _GLOBAL.format(folder=folder)
        for name, options in ways.items():
            checked = "check-send-proxy" in options
            text += _WAY.format(
                name=name,
                port=self.ports[name],
                check=_CHECK if checked else "",
                rules="\n    ".join(rules),
                server=f"127.0.0.1:{to}",
                options=f"{options} {_PACE}" if checked else options,
            )
        self._config = folder / "haproxy.cfg"
        self._config.write_text(text)

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, "-db", "-f", self._config], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(self._answers, f"HAProxy runs: {self._log.read_text()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()  # at once: its graceful end is SIGUSR1
        self._process.wait()

    def connect(self, way: str, source: str) -> socket.socket:
        """A client's connection from this address of the machine."""
        return socket.create_connection(("127.0.0.1", self.ports[way]), timeout=30, source_address=(source, 0))

    def health(self, way: str) -> tuple[str, str]:
        """What HAProxy thinks of the server, and what its last check found: ("UP", "L7OK") or ("DOWN", "L4CON")."""
        names, *rows = self._ask("show stat").removeprefix("# ").splitlines()
        columns = names.split(",")
        found = [dict(zip(columns, row.split(","), strict=False)) for row in rows if row]
        (row,) = [row for row in found if (row["pxname"], row["svname"]) == (way, "elemta")]
        return row["status"], row["check_status"]

    def _ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self._folder / "stats.sock"))
            control.sendall(command.encode() + b"\n")
            return control.makefile("r").read()

    def _answers(self) -> bool:
        try:
            return "elemta" in self._ask("show stat")
        except OSError:
            assert self._process is not None
            if self._process.poll() is not None:
                raise TimeoutError(f"HAProxy ended: {self._log.read_text()}") from None
            return False
