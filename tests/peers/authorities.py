"""Real ACME authorities: pebble with its mock DNS, Caddy in a network of its own, BIND for dns-01.

What is not here: assertions, the server that asks them. Every program has its files in a folder of its own; its ports
are from the system but for Caddy, which asks at port 80 alone.
"""

import os
import signal
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

from tests.peers.wire import free_port, wait_until

#: What the authority's HTTPS is called.
HOST = "localhost"


class Program:
    """A program that runs while entered, with its log in a file."""

    def __init__(self, folder: Path, name: str, *command: str | Path, environ: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._environ = {**os.environ, **(environ or {})}
        self._folder = folder
        self._log_path = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environ,
                cwd=self._folder,
                start_new_session=True,
            )
        wait_until(self._is_up, f"{self._command[0]} listens")

    def _is_up(self) -> bool:
        raise NotImplementedError

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Have it hang: connections are taken by the kernel, nothing is answered."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    @property
    def log(self) -> str:
        """What it wrote."""
        return self._log_path.read_text(errors="replace")


def accepts(port: int) -> bool:
    """Whether somebody listens at a port of loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class MockDns(Program):
    """pebble-challtestsrv: every name is at 127.0.0.1."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.port, self._management = free_port(), free_port()
        ends = ["-dns01", f"127.0.0.1:{self.port}", "-management", f"127.0.0.1:{self._management}"]
        off = ["-http01", "", "-https01", "", "-tlsalpn01", ""]
        defaults = ["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]
        super().__init__(folder, "challtestsrv", program, *ends, *off, *defaults)

    def _is_up(self) -> bool:
        return accepts(self._management)


class Pebble(Program):
    """Let's Encrypt's small authority. It forgets everything when it ends, and has a new root at each start."""

    def __init__(
        self,
        program: Path,
        folder: Path,
        *,
        http_port: int,
        dns_port: int,
        seconds: int = 0,
        refused_nonces: int = 0,
        bindings: Mapping[str, str] | None = None,
    ) -> None:
        """`seconds` is how long its certificates live, 0 for five years; `refused_nonces` a percentage."""
        self._port, self._management = free_port(), free_port()
        authority = trustme.CA()
        own = authority.issue_cert(HOST)
        self.ca_file = folder / "pebble-ca.pem"
        authority.cert_pem.write_to_path(self.ca_file)
        own.private_key_pem.write_to_path(folder / "pebble.key")
        own.cert_chain_pems[0].write_to_path(folder / "pebble.pem")
        lifetime = f'"certificateValidityPeriod": {seconds},' if seconds else ""
        keys = ", ".join(f'"{key_id}": "{secret}"' for key_id, secret in (bindings or {}).items())
        (folder / "pebble.json").write_text(
            f"""{{"pebble": {{
            "listenAddress": "127.0.0.1:{self._port}", "managementListenAddress": "127.0.0.1:{self._management}",
            "certificate": "{folder}/pebble.pem", "privateKey": "{folder}/pebble.key", {lifetime}
            "httpPort": {http_port}, "tlsPort": 1, "ocspResponderURL": "",
            "externalAccountBindingRequired": {"true" if bindings else "false"},
            "externalAccountMACKeys": {{{keys}}}
            }}}}"""
        )
        environ = {
            "PEBBLE_VA_NOSLEEP": "1",
            "PEBBLE_AUTHZREUSE": "0",
            "PEBBLE_WFE_NONCEREJECT": str(refused_nonces),
        }
        command = (program, "-config", folder / "pebble.json", "-dnsserver", f"127.0.0.1:{dns_port}")
        super().__init__(folder, "pebble", *command, environ=environ)

    @property
    def directory_url(self) -> str:
        """Where its directory is."""
        return f"https://{HOST}:{self._port}/dir"

    @property
    def root(self) -> str:
        """The root of what it issues, PEM."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        with urllib.request.urlopen(
            f"https://{HOST}:{self._management}/roots/0", context=context, timeout=10
        ) as answer:
            return str(answer.read().decode("ascii"))

    def _is_up(self) -> bool:
        return accepts(self._port) and accepts(self._management)


class Bind(Program):
    """BIND as the primary server of `example.test`, which takes updates signed by its key."""

    def __init__(self, program: Path, folder: Path, *, key_name: str, key_secret: str) -> None:
        self.port = free_port()
        (folder / "zone").write_text(
            "$TTL 60\n@ SOA ns.example.test. hostmaster.example.test. 1 60 60 600 60\n"
            "@ NS ns.example.test.\nns A 127.0.0.1\nmail A 127.0.0.1\n@ A 127.0.0.1\n* A 127.0.0.1\n"
        )
        (folder / "named.conf").write_text(
            f"""
            options {{
              directory "{folder}"; pid-file none;
              listen-on port {self.port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
              recursion no; dnssec-validation no; session-keyfile none; allow-query {{ any; }};
            }};
            controls {{}};
            key "{key_name}" {{ algorithm hmac-sha256; secret "{key_secret}"; }};
            zone "example.test" {{ type primary; file "zone"; allow-update {{ key "{key_name}"; }}; }};
            """
        )
        super().__init__(folder, "named", program, "-g", "-c", folder / "named.conf")

    def _is_up(self) -> bool:
        return accepts(self.port)


class Namespace(Program):
    """A private loopback with every port free, where `hosts` are at 127.0.0.1. Needs root."""

    def __init__(self, folder: Path, *, hosts: tuple[str, ...]) -> None:
        (folder / "hosts").write_text(f"127.0.0.1 localhost {' '.join(hosts)}\n")
        self._ready = folder / "namespace"
        script = f"ip link set lo up && mount --bind {folder}/hosts /etc/hosts && touch {self._ready} && exec sleep inf"
        super().__init__(folder, "namespace", "unshare", "--net", "--mount", "sh", "-c", script)

    def _is_up(self) -> bool:
        return self._ready.exists()

    @property
    def inside(self) -> tuple[str, ...]:
        """What is written before a command to run it in there."""
        assert self._process is not None
        return ("nsenter", "--target", str(self._process.pid), "--net", "--mount")


class Caddy(Program):
    """Caddy as an authority in a namespace; it asks at port 80 alone."""

    directory_url = "https://localhost:9443/acme/local/directory"

    def __init__(self, program: Path, folder: Path, *, inside: tuple[str, ...]) -> None:
        (folder / "Caddyfile").write_text(
            f"{{\n admin off\n auto_https disable_redirects\n skip_install_trust\n"
            f" storage file_system {folder}/caddy\n}}\n"
            "https://localhost:9443 {\n tls internal\n acme_server\n}\n"
        )
        #: The root of its HTTPS, and of what it issues.
        self.ca_file = folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        command = (*inside, str(program), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile")
        super().__init__(folder, "caddy", *command, environ={"HOME": str(folder)})

    def _is_up(self) -> bool:
        return self.ca_file.exists() and "certificate obtained successfully" in self.log
