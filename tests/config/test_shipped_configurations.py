"""Every configuration that ships is one that the loader takes, wherever it is written, and its frame fits it."""

import configparser
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from elemta.config.document import Rank
from elemta.config.load import Loaded, load_config
from elemta.config.sections import Config, TransportName
from elemta.net.activation import is_bound_to
from elemta.net.base import Endpoint
from elemta.supervisor.ready import asked_addresses
from elemta.supervisor.server import CLOSE_SECONDS
from elemta.supervisor.serving import WEB_STOP_SECONDS
from elemta.supervisor.workers import KILL_MARGIN_SECONDS

CONF = Path(__file__).parents[2] / "conf"
EXAMPLES = sorted(path.name for path in CONF.glob("*.json"))
UNITS = CONF / "systemd"
MANIFESTS = sorted(path.name for path in (CONF / "kubernetes").glob("*.yaml"))

#: What a file of secrets holds, by the ending of its name.
SECRETS = {".dsn": "postgresql://elemta:secret@db.example.com/elemta", ".password": "secret", ".pem": "no certificate"}
#: Folders that a machine with Elemta has.
FOLDERS = ("/etc/elemta/", "/var/lib/elemta/", "/run/secrets/elemta/")
#: Seconds after `shutdown_timeout` within which a server of one or many processes has ended.
END_SECONDS = CLOSE_SECONDS + WEB_STOP_SECONDS + KILL_MARGIN_SECONDS

Load = Callable[..., Loaded]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a text on a machine that has the files which it names."""

    def load(text: str, **environ: str) -> Loaded:
        for folder in FOLDERS:
            text = text.replace(folder, f"{tmp_path}{folder}")
            (tmp_path / folder[1:]).mkdir(parents=True, exist_ok=True)
        for word in (word for word in text.split('"') if word.startswith(str(tmp_path))):
            if Path(word).suffix in SECRETS:
                Path(word).write_text(SECRETS[Path(word).suffix])
                Path(word).chmod(0o600)
        (tmp_path / "elemta.conf").write_text(text)
        return load_config("elemta.conf", environ, cwd=tmp_path)

    return load


# ---- by themselves -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_loaded_without_a_warning(name: str, load: Load) -> None:
    loaded = load((CONF / name).read_text())
    warned = {warning.key for warning in loaded.warnings}
    # The original's own is as its authors wrote it.
    assert warned == (
        {"tls.cert_file", "tls.key_file", "tls.listen_addr"} if name == "original-example.json" else set()
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_example_relays_for_the_world(name: str, load: Load) -> None:
    config = load((CONF / name).read_text()).config
    assert not {"0.0.0.0/0", "::/0"} & set(config.allowed_relays)


def test_the_examples_do_what_their_names_say(load: Load) -> None:
    def example(name: str) -> Config:
        return load((CONF / f"{name}.json").read_text()).config

    assert example("dev").dev_mode
    (route,) = example("smarthost").routes
    assert (route.domain, route.transport, route.password) == ("*", TransportName.SMTP, "secret")
    mx = example("internet-mx")
    assert (mx.allowed_relays, mx.local_domains, mx.tls.lets_encrypt.enabled) == ((), ("example.com",), True)
    submission = example("submission-postgresql")
    assert submission.auth.datasource_type == "postgresql"
    assert all(listener.auth_required for listener in submission.listeners)
    nodes = example("three-nodes-postgresql")
    assert (nodes.storage.type, nodes.storage.dsn) == ("postgresql", SECRETS[".dsn"])


def test_the_page_beside_them_tells_of_each_file() -> None:
    page = (CONF / "README.md").read_text()
    files = [path.relative_to(CONF).as_posix() for path in CONF.rglob("*") if path.is_file()]
    assert [name for name in files if name != "README.md" and f"`{name}`" not in page] == []


# ---- systemd -------------------------------------------------------------------------------------


def unit(name: str) -> configparser.ConfigParser:
    """A unit as configparser reads it: of a key that stands twice the last one."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as its documentation says
    parser.read(UNITS / name)
    return parser


def test_the_service_waits_for_the_drain() -> None:
    service = unit("elemta.service")["Service"]
    assert float(service["TimeoutStopSec"]) > Config().timeouts.shutdown_timeout + END_SECONDS
    assert service["Type"] == "notify"
    assert service["RestartPreventExitStatus"] == "78"


@pytest.mark.parametrize("name", ["smarthost", "internet-mx", "three-nodes-postgresql"])
def test_each_port_of_the_socket_unit_has_its_listener(name: str, load: Load) -> None:
    config = load((CONF / f"{name}.json").read_text()).config
    port = int(unit("elemta.socket")["Socket"]["ListenStream"])
    assert any(is_bound_to(Endpoint("::", port), address) for address in asked_addresses(config))


def test_the_service_reads_and_writes_where_the_examples_say(load: Load) -> None:
    service = unit("elemta.service")["Service"]
    assert service["ExecStart"].endswith("elemta run -c /etc/elemta/elemta.conf")
    for name in ("smarthost", "internet-mx", "submission-postgresql", "three-nodes-postgresql"):
        folder = json.loads((CONF / f"{name}.json").read_text())["queue_dir"]
        assert Path(folder).parent == Path("/var/lib", service["StateDirectory"])


@pytest.mark.needs("systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for path in UNITS.glob("elemta.s*"):
        program = shutil.which("true") or ""
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/elemta/bin/elemta", program))
    units = [str(tmp_path / "elemta.service"), str(tmp_path / "elemta.socket")]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.needs("systemd-analyze")
def test_the_service_is_exposed_to_little() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNITS / "elemta.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# ---- containers ----------------------------------------------------------------------------------


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_the_compose_file_fits_the_image_and_the_server(load: Load) -> None:
    service = yaml.safe_load((CONF / "compose.yaml").read_text())["services"]["elemta"]
    loaded = load("{}", **service["environment"])
    assert loaded.warnings == ()
    assert {origin.rank for origin in loaded.origins.values()} <= {Rank.ENVIRONMENT, Rank.DEFAULT}
    assert service["ports"] == [f"25{loaded.config.listen_addr}"]
    assert seconds(service["stop_grace_period"]) > loaded.config.timeouts.shutdown_timeout + END_SECONDS
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    build = service["build"]
    assert (CONF / build["context"] / build["dockerfile"]).is_file()
    assert {volume.split(":")[1] for volume in service["volumes"]} == {"/var/spool/elemta", "/var/lib/elemta"}


def test_the_quadlet_fits_the_image_and_the_server(load: Load) -> None:
    parsed = unit("elemta.container")
    container, service = parsed["Container"], parsed["Service"]
    assert container["PublishPort"] == f"25{load('{}').config.listen_addr}"
    stop = container["PodmanArgs"].partition("--stop-timeout=")[2]
    assert Config().timeouts.shutdown_timeout + END_SECONDS < float(stop) < float(service["TimeoutStopSec"])
    assert container["Notify"] == "true"


def manifests(name: str) -> dict[str, Any]:
    documents = list(yaml.safe_load_all((CONF / "kubernetes" / name).read_text()))
    assert len({document["kind"] for document in documents}) == len(documents)
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_holds_a_configuration(name: str, load: Load) -> None:
    found = manifests(name)
    (container,) = found["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    variables = {row["name"]: row["value"] for row in container["env"]}
    loaded = load(found["ConfigMap"]["data"]["elemta.conf"], **variables)
    assert loaded.warnings == ()
    (port,) = container["ports"]
    assert loaded.config.listen_addr == f":{port['containerPort']}"
    shared = loaded.config.storage.type == "postgresql"
    assert found["StatefulSet"]["spec"]["replicas"] == (3 if shared else 1), "the queue of a folder is one server's"
    pod = found["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > loaded.config.timeouts.shutdown_timeout + END_SECONDS
    for probe, page in (("livenessProbe", "livez"), ("readinessProbe", "readyz")):
        assert f"http://{loaded.config.web.listen_addr}/{page}" in container[probe]["exec"]["command"][-1]
        compile(container[probe]["exec"]["command"][-1], page, "exec")


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_meets_the_restricted_standard_and_itself(name: str) -> None:
    found = manifests(name)
    spec = found["StatefulSet"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    volumes = {volume["name"] for volume in pod["volumes"]}
    claims = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes | claims
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels == found["Service"]["spec"]["selector"]
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} == {
        port["name"] for port in container["ports"]
    }


def test_what_cannot_be_loaded_is_noticed(load: Load) -> None:
    with pytest.raises(Exception, match="hostnam"):
        load('{"hostnam": "mx.example.com"}')
