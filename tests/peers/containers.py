"""Images and containers by Podman and Buildah, with everything they keep in one folder.

What is not here: assertions. No registry is asked: the base is made from Debian's packages, as Debian makes its own.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from tests.peers.wire import wait_until

#: How everybody should run it: nothing can be written but the volumes and /tmp, no capability, no way to get one.
HARDENED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges")
#: Where this machine has lower limits than an engine asks for by default, a container does not start.
LIMITS = ("--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096")

#: What the label of an image says.
VERSION = "1.2.3"

#: What of pip's settings tells where packages are.
_PLACES = ("index-url", "extra-index-url", "trusted-host", "proxy")
#: Where Debian's suites differ from the release's name: the security fixes and updates of a stable release.
_SUITES = ("", "-updates", "-security")

#: What Debian's slim images leave out, so that this one takes as long to copy.
_SLIM = tuple(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "locale", "man"))


class Engine:
    """Podman and Buildah on a store of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._store = (f"--root={folder}/root", f"--runroot={folder}/run")

    def buildah(self, *arguments: str) -> str:
        """Run Buildah; what it printed. Raises `RuntimeError` with everything it said."""
        return self._run("buildah", *self._store, *arguments)

    def podman(self, *arguments: str, **environ: str) -> str:
        """Run Podman; what it printed. Raises `RuntimeError` with everything it said."""
        engine = ("--runtime=runc", "--cgroup-manager=cgroupfs", "--events-backend=none")
        return self._run("podman", *self._store, *engine, f"--tmpdir={self.folder}/tmp", *arguments, **environ)

    def run(self, image: str, *arguments: str, options: tuple[str, ...], **environ: str) -> str:
        """Run a container, to its end unless it is to be detached; what Podman printed. Raises `RuntimeError`."""
        return self.podman("run", *HARDENED, *LIMITS, *options, image, *arguments, **environ)

    def inspect(self, kind: str, name: str) -> Any:
        """What Podman knows of an image or a container."""
        return json.loads(self.podman(kind, "inspect", name))[0]

    def _run(self, *command: str, **environ: str) -> str:
        done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}")
        return done.stdout

    def remove_all(self) -> None:
        """End and forget everything."""
        self.podman("rm", "--all", "--force", "--time=0", "--volumes")
        shutil.rmtree(self.folder)


# ---- building ------------------------------------------------------------------------------------


def make_base(engine: Engine, name: str) -> None:
    """An image of nothing but Debian's essential packages and apt, from where this machine has its own."""
    archive = engine.folder / "base.tar"
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=apt", *_SLIM, _release(), str(archive), *_sources()],
        check=True,
        capture_output=True,
        text=True,
    )
    engine.podman("import", "--quiet", str(archive), name)
    archive.unlink()


def _release() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("VERSION_CODENAME="))


def _sources() -> list[str]:
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        check=True,
        capture_output=True,
        text=True,
    )
    wanted = {_release() + suffix for suffix in _SUITES}
    return [f"deb {line}" for line in done.stdout.splitlines() if line.split()[1] in wanted]


def build(engine: Engine, source: Path, *, base: str, name: str) -> str:
    """Build an image as the Containerfile says; what was printed. Docker's format: OCI's knows no HEALTHCHECK."""
    secrets = [f"--secret=id={secret},src={path}" for secret, path in _pip_secrets(engine.folder).items()]
    how = ("--format=docker", "--isolation=chroot", "--network=host", "--layers=false", *secrets)
    return engine.buildah(
        "bud", *how, f"--build-arg=BASE={base}", "--build-arg=VERSION=1.2.3", f"--tag={name}", str(source)
    )


def _pip_secrets(folder: Path) -> dict[str, Path]:
    """Where this machine has Python's packages from, as the Containerfile takes it: pip.conf, authorities."""
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    settings = {key.rpartition(".")[2]: value.strip("'") for key, value in found.items()}
    lines = ["[global]", *(f"{key} = {settings[key]}" for key in _PLACES if _is_reached(settings.get(key, "")))]
    secrets = {"pip.conf": folder / "pip.conf"}
    if "cert" in settings:
        lines.append("cert = /run/secrets/pip-ca")
        secrets["pip-ca"] = Path(settings["cert"])
    secrets["pip.conf"].write_text("\n".join(lines) + "\n")
    return secrets


def _is_reached(place: str) -> bool:
    """Whether a build sees it too: folders of this machine are not mounted."""
    return bool(place) and "file:" not in place


# ---- running -------------------------------------------------------------------------------------


@frozen
class Box:
    """A container that runs."""

    engine: Engine
    name: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of its log, oldest first."""
        text = Path(self.engine.inspect("container", self.name)["HostConfig"]["LogConfig"]["Path"]).read_text()
        # conmon writes each line behind its time, its stream and whether it is whole.
        lines = [line.split(" ", 3)[3] for line in text.splitlines()]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def event(self, name: str) -> dict[str, Any]:
        """Wait for an event of this name; the last one."""
        wait_until(lambda: name in {event["event"] for event in self.events}, f"{name} in {self.name}")
        return [event for event in self.events if event["event"] == name][-1]

    def stop(self, seconds: int = 40) -> int:
        """Stop it as an orchestrator does: SIGTERM, then patience; its exit status."""
        self.engine.podman("stop", f"--time={seconds}", self.name)
        state: dict[str, int] = self.engine.inspect("container", self.name)["State"]
        return state["ExitCode"]


@contextmanager
def running(engine: Engine, image: str, *options: str, network: str = "host", **environ: str) -> Iterator[Box]:
    """A container of an image that serves; forgotten with the block, its named volumes are not.

    `environ` is the engine's, not the container's.
    """
    name = engine.run(image, options=("--detach", f"--network={network}", *options), **environ).strip()
    box = Box(engine, name)
    try:
        box.event("server.ready")
        yield box
    finally:
        engine.podman("rm", "--force", "--time=0", "--volumes", name)
