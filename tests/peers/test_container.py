"""The image: built as the Containerfile says, run as the documents say, mail in and out of it."""

import json
import os
import smtplib
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from elemta.testing.sink import RecordingSink
from tests.conftest import ROOT, UNDER_CI
from tests.peers.containers import VERSION, Engine, build, make_base, running
from tests.peers.wire import PATIENCE_SECONDS, Wire, free_port

BASE, IMAGE = "localhost/base", "localhost/elemta"
MAIL = "Subject: {}\r\n\r\nA line.\r\n"
#: Seconds of the first test, which builds the image: measured 45 on two cores, with what downloads may add.
BUILD_SECONDS = 360

pytestmark = [
    pytest.mark.needs("buildah", "mmdebstrap", "podman", "runc"),
    pytest.mark.timeout(BUILD_SECONDS),
    pytest.mark.slow,
]

#: Finds, from inside, what could install or compile something, what may be written to, and who we are.
LOOK_AROUND = """
import importlib.util, json, os, pathlib, shutil, sys
tools = ["pip", "pip3", "gcc", "cc", "g++", "make", "ld", "git", "curl", "wget"]
print(json.dumps({
    "uid": [os.getuid(), os.getgid()],
    "tools": [tool for tool in tools if shutil.which(tool, path="/opt/elemta/bin:/usr/sbin:/usr/bin:/sbin:/bin")],
    "modules": [name for name in ("pip", "ensurepip", "setuptools", "hatchling") if importlib.util.find_spec(name)],
    "secrets": [path for path in ("/etc/pip.conf", "/run/secrets/pip-ca") if os.path.exists(path)],
    "compiled": bool(list(pathlib.Path(sys.prefix).rglob("elemta/supervisor/__pycache__/*.pyc"))),
    "writable": [path for path in ("/", "/etc", "/etc/elemta", "/opt/elemta", "/usr/bin", "/var/spool/elemta",
                 "/var/lib/elemta", "/tmp") if os.access(path, os.W_OK)],
}))
"""

#: Finds, as root, what may be closed to others, what building left behind.
LOOK_FOR_LEFTOVERS = """
import json, os
left = [os.path.expanduser("~/.cache"), "/pip", "/source", "/var/lib/apt/lists", "/var/cache/apt"]
print(json.dumps({"uid": os.getuid(), "left": [path for path in left if os.path.isdir(path) and os.listdir(path)]}))
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """An engine whose one image is built; everything is forgotten with it."""
    if os.geteuid() != 0:
        (pytest.fail if UNDER_CI else pytest.skip)("needs root")
    # Podman takes no run folder of more than 50 characters, which pytest's own may have.
    with tempfile.TemporaryDirectory(prefix="elemta-", ignore_cleanup_errors=True) as folder:
        engine = Engine(Path(folder))
        try:
            make_base(engine, BASE)
            build(engine, ROOT, base=BASE, name=IMAGE)
            yield engine
        finally:
            engine.remove_all()


Configure = Callable[..., tuple[str, ...]]


@pytest.fixture
def configure(open_folder: Path) -> Configure:
    """Writes a configuration; the options that mount it, and keep the ports of this machine apart."""

    def write(**config: object) -> tuple[str, ...]:
        full = {"hostname": "box.example.com", **config}
        (open_folder / "elemta.conf").write_text(json.dumps(full))
        health = f"--env=ELEMTA_WEB_LISTEN_ADDR=127.0.0.1:{free_port()}"
        return (f"--volume={open_folder}/elemta.conf:/etc/elemta/elemta.conf:ro", health)

    return write


def relay_to(port: int) -> dict[str, object]:
    return {
        "allowed_relays": ["127.0.0.1"],
        "retry_schedule": [1],
        "routes": [{"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": port}],
    }


def send(port: int, subject: str) -> None:
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client", timeout=PATIENCE_SECONDS) as client:
        client.sendmail("s@example.org", ["r@example.net"], MAIL.format(subject))


# ---- the image -----------------------------------------------------------------------------------


def test_the_image_says_how_it_is_run(engine: Engine) -> None:
    image = engine.inspect("image", IMAGE)
    config = image["Config"]
    assert config["User"] == "2525:2525"
    assert config["Entrypoint"] == ["elemta"], "no shell stands between the signals and the server"
    assert config["Cmd"] == ["run"]
    assert config["StopSignal"] == "SIGTERM"
    assert sorted(config["Volumes"]) == ["/etc/elemta", "/var/lib/elemta", "/var/spool/elemta"]
    assert list(config["ExposedPorts"]) == ["2525/tcp"]
    assert image["Healthcheck"]["Test"][:3] == ["CMD", "python3", "-c"]
    assert config["Labels"]["org.opencontainers.image.title"] == "Elemta"
    assert config["Labels"]["org.opencontainers.image.version"] == VERSION


def test_nothing_in_it_builds_or_installs(engine: Engine) -> None:
    options = ("--rm", "--network=none", "--entrypoint=python3")
    found = json.loads(engine.run(IMAGE, "-c", LOOK_AROUND, options=options))
    assert found == {
        "uid": [2525, 2525],
        "tools": [],
        "modules": [],
        "secrets": [],
        "compiled": True,
        "writable": ["/var/spool/elemta", "/var/lib/elemta", "/tmp"],
    }


def test_building_it_left_nothing_behind(engine: Engine) -> None:
    options = ("--rm", "--network=none", "--user=0:0", "--entrypoint=python3")
    assert json.loads(engine.run(IMAGE, "-c", LOOK_FOR_LEFTOVERS, options=options)) == {"uid": 0, "left": []}


def test_the_commands_are_there(engine: Engine) -> None:
    assert engine.run(IMAGE, "version", options=("--rm", "--network=none")).startswith("elemta ")


# ---- a container ---------------------------------------------------------------------------------


def test_mail_goes_in_and_out(engine: Engine, configure: Configure, sink: RecordingSink) -> None:
    port = free_port()
    options = configure(listen_addr=f"127.0.0.1:{port}", **relay_to(sink.port))
    with running(engine, IMAGE, *options) as box:
        send(port, "through")
        (mail,) = sink.wait_for(1)
        assert b"Subject: through\r\n" in mail.content
        assert b"by box.example.com" in mail.content
        assert box.stop() == 0


def test_its_health_is_seen(engine: Engine, configure: Configure) -> None:
    with running(engine, IMAGE, *configure(listen_addr="127.0.0.1:0")) as box:
        assert engine.inspect("container", box.name)["State"]["Health"]["Status"] == "starting"
        engine.podman("healthcheck", "run", box.name)
        assert engine.inspect("container", box.name)["State"]["Health"]["Status"] == "healthy"
    with running(engine, IMAGE, *configure(listen_addr="127.0.0.1:0", web={"enabled": False})) as box:
        with pytest.raises(RuntimeError, match=r"unhealthy|Connection refused"):
            engine.podman("healthcheck", "run", box.name)


def test_a_stop_lets_a_mail_finish(engine: Engine, configure: Configure, sink: RecordingSink) -> None:
    port = free_port()
    options = configure(listen_addr=f"127.0.0.1:{port}", **relay_to(sink.port))
    with running(engine, IMAGE, *options) as box, Wire(port) as client:
        client.greeting()
        for command in (b"EHLO client", b"MAIL FROM:<s@example.org>", b"RCPT TO:<r@example.net>", b"DATA"):
            assert client.ask(command + b"\r\n")[:1] in (b"2", b"3")
        statuses: list[int] = []
        stopping = threading.Thread(target=lambda: statuses.append(box.stop()))
        stopping.start()
        box.event("server.draining")
        client.send(MAIL.format("last").encode())
        assert client.ask(b".\r\n").startswith(b"250 ")
        assert client.reply().startswith(b"421 ")
        stopping.join()
        assert statuses == [0]
        assert box.event("server.drained")["in_order"] is True


def test_a_new_container_goes_on_with_the_queue(engine: Engine, configure: Configure) -> None:
    port, far = free_port(), free_port()
    options = (*configure(listen_addr=f"127.0.0.1:{port}", **relay_to(far)), "--volume=queue:/var/spool/elemta")
    with running(engine, IMAGE, *options) as box:
        send(port, "kept")
        assert box.stop() == 0
    with RecordingSink(far) as sink, running(engine, IMAGE, *options):
        (mail,) = sink.wait_for(1)
        assert b"Subject: kept\r\n" in mail.content


def test_the_service_manager_hears_that_it_is_ready(engine: Engine, configure: Configure, open_folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(open_folder / "notify"))
        manager.settimeout(PATIENCE_SECONDS)
        options = ("--sdnotify=container", *configure(listen_addr="127.0.0.1:0"))
        with running(engine, IMAGE, *options, NOTIFY_SOCKET=str(open_folder / "notify")):
            heard = b""
            while b"READY=1" not in heard:
                heard = manager.recv(4096)  # the engine says more, and not the server's status


def test_port_25_needs_no_root(engine: Engine, configure: Configure) -> None:
    # A network of its own: in that of this machine the setting would be the machine's.
    options = ("--sysctl=net.ipv4.ip_unprivileged_port_start=25", *configure(listen_addr=":25"))
    with running(engine, IMAGE, *options, network="none") as box:
        assert "0.0.0.0:25" in box.event("server.ready")["listeners"]
        assert box.stop() == 0
