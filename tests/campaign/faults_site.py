"""A server on one of the four stores, as the fault campaign meets it: what it runs on, what it logs, what it says.

What is not here: faults and verdicts (`faults_rounds` and its neighbours), load (`faults_load`).
"""

import enum
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field

from elemta.datasource.options import Dialect
from elemta.testing.process import ServerProcess
from elemta.web.base import PREFIX
from tests.campaign.faults_load import CountingSink
from tests.campaign.servers import DatabaseServer
from tests.peers.wire import wait_until

#: Deliveries at once; so many mails may be in flight at a crash.
WORKERS = 20
#: How long a client waits for a store that is away: short, so that a round is.
COMMIT_SECONDS = 3.0
#: The least that a configuration may say.
LEASE_SECONDS = 10
ANSWER_SECONDS = 10.0
DRAIN_SECONDS = 180.0


class Store(enum.Enum):
    """`storage.type`."""

    FILE = "file"
    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"
    MYSQL = "mysql"

    @property
    def dialect(self) -> Dialect | None:
        """The database server that it needs, None where it needs none."""
        return {Store.POSTGRESQL: Dialect.POSTGRESQL, Store.MYSQL: Dialect.MYSQL}.get(self)


def relay_config(store: Store, sink_port: int, *, dsn: str = "") -> dict[str, Any]:
    """A relay that sends everything to one port, and tries again each second."""
    storage: dict[str, Any] = {"type": store.value}
    if dsn:
        storage |= {"dsn": dsn, "lease": LEASE_SECONDS}
    return {
        "hostname": "relay.example.com",
        "allowed_relays": ["127.0.0.1"],
        "max_workers": WORKERS,
        "retry_schedule": [1],
        "max_retries": 1000,
        "limits": {"max_transactions": 1_000_000},
        "timeouts": {"commit_timeout": COMMIT_SECONDS},
        "web": {"enabled": True, "listen_addr": "127.0.0.1:0"},
        "routes": [{"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": sink_port}],
        "storage": storage,
    }


@define(eq=False)
class Journal:
    """What a server's log says about attempts nobody saw the end of; reads only what is new each time."""

    path: Path
    #: Ids of mails that were recorded as uncertain.
    uncertain: set[str] = field(factory=set)
    #: How often each event was logged.
    seen: dict[str, int] = field(factory=dict)
    #: The last event of each name.
    last: dict[str, dict[str, Any]] = field(factory=dict)
    tracebacks: int = 0
    _offset: int = 0

    def read(self) -> None:
        """Take in what was written since the last time, as far as lines are whole."""
        with self.path.open("rb") as log:
            log.seek(self._offset)
            whole, end, _ = log.read().rpartition(b"\n")
        self._offset += len(whole + end)
        for line in whole.splitlines():
            if b"Traceback" in line:
                self.tracebacks += 1
            if line.startswith(b"{"):
                self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        name = event["event"]
        self.seen[name] = self.seen.get(name, 0) + 1
        self.last[name] = event
        if name in ("queue.joined", "queue.adopted"):
            self.uncertain |= set(event["uncertain_ids"])
        elif name == "delivery.outcome" and event["result"] == "uncertain":
            self.uncertain.add(event["queue_id"])


class Node(ServerProcess):
    """One server with its journal; asked over its control socket and its web side."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, config)
        self.journal = Journal(folder / "elemta.log")

    def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        """A page of the operators', over the control socket."""
        connection = http.client.HTTPConnection("localhost", timeout=ANSWER_SECONDS)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(ANSWER_SECONDS)
        connection.sock.connect(self.ready["control"])
        return _answer(connection, PREFIX + path)

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """What `/readyz` answers."""
        web = self.ready["web"]
        return _answer(http.client.HTTPConnection(web["host"], web["port"], timeout=ANSWER_SECONDS), "/readyz")

    def waiting(self) -> int:
        """How many mails wait in the queue, this node's and, where it is shared, the others'."""
        code, counts = self.ask("/queue/stats")
        assert code == 200, counts
        return sum(int(counts[f"{state}_count"]) for state in ("active", "deferred", "held"))


def _answer(connection: http.client.HTTPConnection, path: str) -> tuple[int, dict[str, Any]]:
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def wait_empty(node: Node, seconds: float = DRAIN_SECONDS) -> None:
    """Wait until nothing waits in the queue: nothing is stuck. Raises `TimeoutError`."""

    def is_empty() -> bool:
        try:
            return node.waiting() == 0
        except (OSError, AssertionError):
            return False

    wait_until(is_empty, "the queue is empty", seconds)


@define(eq=False)
class Site:
    """One store with a sink; nodes are made on it."""

    store: Store
    folder: Path
    sink: CountingSink
    database: DatabaseServer | None

    def node(self, name: str = "node", *, port: int | None = None, **more: Any) -> Node:
        """A server on this store, not started yet; at the port of a proxy before the database if that is given."""
        dsn = "" if self.database is None else self.database.dsn(port)
        return Node(self.folder / name, {**relay_config(self.store, self.sink.port, dsn=dsn), **more})


@contextmanager
def made_site(store: Store, folder: Path, *, data: Path | None = None, wal: Path | None = None) -> Iterator[Site]:
    """A site in `folder`; its database server, if it has one, keeps its data and its log as `DatabaseServer` says."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    with CountingSink() as sink:
        if store.dialect is None:
            yield Site(store, folder, sink, None)
            return
        with DatabaseServer(store.dialect, folder / "database", data=data, wal=wal) as database:
            yield Site(store, folder, sink, database)
