"""A real OpenDKIM, with keys and a configuration of its own.

What is not here: assertions. DNS is a function: nothing is asked of a name server.
"""

import re
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import dkim

from tests.peers.wire import wait_until

SELECTOR = "s1"
DOMAIN = "example.com"

_CONF = """
Background no
AutoRestart no
Syslog no
UMask 000
Mode {mode}
Canonicalization {canonicalization}
Domain {domain}
Selector {selector}
KeyFile {folder}/{selector}.private
RequireSafeKeys no
AuthservID mail.example.com
TestPublicKeys {folder}/keys
Socket {socket}
InternalHosts {folder}/internal
ExternalIgnoreList {folder}/internal
"""


def make_keys(genkey: Path, folder: Path) -> bytes:
    """A key pair in `folder`; the TXT record that tells of it."""
    command: list[str | Path] = [genkey, "-b", "2048", "-D", folder, "-s", SELECTOR, "-d", DOMAIN]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    record = "".join(re.findall(r'"([^"]*)"', (folder / f"{SELECTOR}.txt").read_text()))
    (folder / "keys").write_text(f"{SELECTOR}._domainkey.{DOMAIN} {record}\n")
    return record.encode()


def verifies(content: bytes, record: bytes) -> bool:
    """Whether a mail's DKIM signature is right, by dkimpy."""

    def texts(name: bytes, timeout: int = 5) -> bytes:
        assert name == f"{SELECTOR}._domainkey.{DOMAIN}.".encode()
        return record

    return bool(dkim.verify(content, dnsfunc=texts))


def signed(content: bytes, folder: Path) -> bytes:
    """The mail with a signature before it, by dkimpy."""
    private = (folder / f"{SELECTOR}.private").read_bytes()
    signature: bytes = dkim.sign(content, SELECTOR.encode(), DOMAIN.encode(), private)
    return signature + content


class OpenDkim:
    """Runs while entered. `mode` is `s` to sign, `v` to verify, `sv` for both; mail from `internal` is signed."""

    def __init__(self, program: Path, folder: Path, *, socket: str, mode: str = "sv", form: str = "simple") -> None:
        self._folder = folder
        self._program = program
        self._socket = socket
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "internal").write_text("127.0.0.1\n")
        (folder / "opendkim.conf").write_text(
            _CONF.format(
                mode=mode,
                canonicalization=f"{form}/{form}",
                domain=DOMAIN,
                selector=SELECTOR,
                folder=folder,
                socket=socket,
            )
        )

    def __enter__(self) -> Self:
        with (self._folder / "log").open("wb") as log:
            command: list[str | Path] = [self._program, "-f", "-x", self._folder / "opendkim.conf"]
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        wait_until(self._listens, "OpenDKIM listens")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()  # on SIGTERM it goes on for five seconds, and has nothing to keep
        self._process.wait(30)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text(errors="replace")
        if self._socket.startswith("unix:") or self._socket.startswith("local:"):
            return Path(self._socket.partition(":")[2]).exists()
        port = int(self._socket.removeprefix("inet:").partition("@")[0])
        return f":{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text()
