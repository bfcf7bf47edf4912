"""Real clamd, spamd, each with a configuration, rules, a folder of its own.

What is not here: assertions, rspamd (`peers.rspamd`). clamd knows the signatures of the test alone; spamd has the rules
of Debian without those that ask the network. `folder` must be reachable for every user: where the tests are root's, a
daemon gives up its rights.
"""

import hashlib
import os
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.wire import free_port, wait_until

#: The harmless file that every virus scanner finds, in two pieces: one would be found in here.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-" + rb"STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
#: The line that every spam filter finds. rspamd knows others of its kind, which begin with another letter.
GTUBE = b"JS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"

#: Octets that clamd takes.
STREAM_MAX_OCTETS = 1024 * 1024

_CLAMD_CONF = """
Foreground yes
DatabaseDirectory {folder}/db
LocalSocket {folder}/clamd.ctl
TCPAddr 127.0.0.1
TCPSocket {port}
StreamMaxLength {octets}
LogFile {folder}/log
PidFile {folder}/pid
MaxThreads 2
"""

_SPAMD_PLUGINS = """
loadplugin Mail::SpamAssassin::Plugin::Check
loadplugin Mail::SpamAssassin::Plugin::BodyEval
loadplugin Mail::SpamAssassin::Plugin::HeaderEval
loadplugin Mail::SpamAssassin::Plugin::MIMEEval
"""


class Daemon:
    """One daemon; runs while entered. `port` is where it listens on loopback."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it listens, as the configuration writes it."""
        return f"127.0.0.1:{self.port}"

    @property
    def ports(self) -> tuple[int, ...]:
        """Where it listens once it is there."""
        return (self.port,)

    def prepare(self) -> list[str]:
        """Write the configuration; the arguments."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        arguments = self.prepare()
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody")
        with (self.folder / "output").open("wb") as output:
            self._process = subprocess.Popen([self._program, *arguments], stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until(self._listens, f"{self._program.name} listens")
        except BaseException as error:
            error.add_note((self.folder / "output").read_text(errors="replace"))
            self.__exit__(None, None, None)
            raise
        return self

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self._program.name} has ended"
        for port in self.ports:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) != 0:
                    return False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)


def as_nobody(*options: str) -> tuple[str, ...]:
    """Options for root alone."""
    return options if os.geteuid() == 0 else ()


class Clamd(Daemon):
    """ClamAV; knows EICAR and nothing else."""

    def prepare(self) -> list[str]:
        (self.folder / "db").mkdir()
        signature = f"{hashlib.md5(EICAR).hexdigest()}:{len(EICAR)}:Test.EICAR\n"
        (self.folder / "db" / "test.hdb").write_text(signature)
        conf = _CLAMD_CONF.format(folder=self.folder, port=self.port, octets=STREAM_MAX_OCTETS)
        (self.folder / "clamd.conf").write_text(conf)
        return ["-c", f"{self.folder}/clamd.conf"]


class Spamd(Daemon):
    """SpamAssassin; asks nobody on the network."""

    def prepare(self) -> list[str]:
        (self.folder / "init.pre").write_text(_SPAMD_PLUGINS)
        own = [f"--siteconfigpath={self.folder}", "--nouser-config", f"--helper-home-dir={self.folder}"]
        bounds = ["--local", "--max-children=2", "--syslog=stderr", f"--listen={self.address}"]
        return [*own, *bounds, *as_nobody("--username=nobody")]
