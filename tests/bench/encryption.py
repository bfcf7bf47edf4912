"""TLS from the first octet: handshakes a second, mails a second, Elemta beside Postfix.

Handshakes are made by openssl's s_time, several at once, new ones or resumed ones. Mails are smtp-source's, which
speaks no TLS: stunnel encrypts each of its connections, and costs both servers the same. Both show the same ECDSA
certificate. What is not here: the servers themselves (`servers`), or AUTH (`logins`).
Needs Debian's postfix, openssl, stunnel4.
"""

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme
from rich.console import Console
from rich.progress import Progress

from elemta.testing.process import ServerProcess
from tests.bench.servers import HOLD, LIMITS, free_port, load, place, wait_for_port
from tests.bench.tables import Samples
from tests.peers.postfix import Postfix

#: Handshakes under way at once.
AT_ONCE = 4
#: Seconds of each count of handshakes.
SECONDS = 3
NEW, RESUMED = "handshakes/s, new", "handshakes/s, resumed"
MAILS = {"mails/s, S10": "S10", "mails/s, S10 kept": "S10 kept", "mails/s, S50 kept": "S50 kept"}
ROWS = [NEW, RESUMED, *MAILS]

_STUNNEL = """
foreground = yes
pid =
debug = err
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[smtps]
client = yes
accept = 127.0.0.1:{near}
connect = 127.0.0.1:{far}
"""
_POSTFIX = """
smtpd_tls_security_level = may
smtpd_tls_wrappermode = yes
smtpd_tls_chain_files = {pair}
"""


def certificate(folder: Path) -> Path:
    """A key with its certificate in one file that every user of this machine reads: it proves nothing to anyone."""
    pair = folder / "pair.pem"
    issued = trustme.CA().issue_cert("elemta.example.com")
    pair.write_bytes(issued.private_key_pem.bytes() + b"".join(each.bytes() for each in issued.cert_chain_pems))
    return pair


@contextmanager
def elemta(folder: Path, pair: Path) -> Iterator[int]:
    """Elemta with a listener that speaks TLS from the first octet; nothing bounds its handshakes."""
    config = {
        "hostname": "elemta.example.com",
        "listeners": [{"address": "127.0.0.1:0", "tls": "implicit"}],
        "tls": {"enabled": True, "cert_file": str(pair), "key_file": str(pair), "handshakes_per_address": 1_000_000},
        "allowed_relays": ["127.0.0.1"],
        "routes": [{"domain": "*", "transport": "discard"}],
        "limits": LIMITS,
    }
    with ServerProcess(folder, config) as server:
        yield server.port
        server.stop()


@contextmanager
def postfix(folder: Path, pair: Path) -> Iterator[int]:
    """Postfix's smtpd in its wrapper mode, which parks what it takes."""
    port = free_port()
    folder.chmod(0o755)
    with Postfix(Path("/usr/sbin/postfix"), folder, port=port, extra=HOLD + _POSTFIX.format(pair=pair)):
        wait_for_port(port)
        yield port


@contextmanager
def encrypting(port: int, folder: Path) -> Iterator[int]:
    """A port that leads to `port`, over TLS."""
    near = free_port()
    settings = folder / "stunnel.conf"
    settings.write_text(_STUNNEL.format(near=near, far=port))
    process = subprocess.Popen(["stunnel4", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(near)
        yield near
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def handshakes(port: int, *, resumed: bool) -> float:
    """Complete handshakes a second."""
    command = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-reuse" if resumed else "-new"]
    asking = [
        subprocess.Popen(
            [*command, "-time", str(SECONDS)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for _ in range(AT_ONCE)
    ]
    rate = 0.0
    for process in asking:
        said, _ = process.communicate(timeout=SECONDS * 10)
        found = re.findall(r"(\d+) connections in (\d+) real seconds", said)
        if not found:
            raise RuntimeError(f"s_time counted nothing:\n{said}")
        rate += int(found[-1][0]) / int(found[-1][1])
    return rate


def measure_encryption(rounds: int, mails: int) -> Samples:
    """A sample a round for each row of `ROWS`, both servers in turn."""
    samples: Samples = {}
    servers = {"elemta": elemta, "postfix": postfix}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("tls", total=rounds * len(servers) * len(ROWS))
        for _ in range(rounds):
            for name, server in servers.items():
                with place() as folder, place() as ours, server(folder, certificate(ours)) as port:
                    for row, resumed in ((NEW, False), (RESUMED, True)):
                        samples.setdefault((row, name), []).append(handshakes(port, resumed=resumed))
                        progress.advance(task)
                    with encrypting(port, ours) as near:
                        for row, case in MAILS.items():
                            load(near, case, max(10, mails // 20))
                            samples.setdefault((row, name), []).append(mails / load(near, case, mails))
                            progress.advance(task)
    return samples
