"""Routes that plugins choose, on a queue of two nodes: the other node goes by them, or says that it has none such."""

import smtplib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elemta.datasource.options import Dialect
from elemta.testing.process import ServerProcess
from elemta.testing.sink import RecordingSink
from tests.datasource.servers import empty_database
from tests.peers.test_held_by_plugins import say
from tests.peers.test_plugged_server import plugin
from tests.peers.test_workers import dsn_of
from tests.peers.wire import free_port, wait_until

CHOOSING = """\
    async def on_data_headers(self, mail):
        return Continue([SetRoute("archive")])
"""


@pytest.fixture
def storage() -> Iterator[dict[str, Any]]:
    """The section `storage` of an empty database."""
    with empty_database(Dialect.POSTGRESQL) as options:
        yield {"type": "postgresql", "dsn": dsn_of(options), "lease": 10}


class Nodes:
    """Makes nodes of one queue. By their domains all mails would go to `wrong`."""

    def __init__(self, folder: Path, storage: dict[str, Any], wrong: int) -> None:
        self._folder, self._storage, self._wrong = folder, storage, wrong

    def make(self, name: str, archive: int | None, *bodies: str) -> ServerProcess:
        folder = self._folder / name
        folder.mkdir()
        routes: list[dict[str, Any]] = [{"domain": "*", "transport": "smtp", "host": "127.0.0.1", "port": self._wrong}]
        if archive is not None:
            way = {"transport": "smtp", "host": "127.0.0.1", "port": archive, "priority": "low"}
            routes.append({"domain": "archive.invalid", "name": "archive", **way})
        config = {
            "hostname": f"{name}.example.com",
            "allowed_relays": ["127.0.0.1"],
            "retry_schedule": [1],
            "max_retries": 1000,
            "storage": self._storage,
            "routes": routes,
            "plugins": {"plugins": [plugin(folder, "choosing", body) for body in bodies]},
        }
        return ServerProcess(folder, config)


@pytest.fixture
def nodes(tmp_path: Path, storage: dict[str, Any], sink: RecordingSink) -> Nodes:
    return Nodes(tmp_path, storage, sink.port)


def send(server: ServerProcess) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, local_hostname="client", timeout=30) as client:
        client.sendmail("s@example.org", ["r@example.net"], "Subject: hello\r\n\r\nhello\r\n")


def waiting(server: ServerProcess) -> dict[str, Any]:
    """The one mail that waits, once an attempt was in vain."""
    wait_until(lambda: [one["attempt_count"] > 0 for one in say(server, "list")] == [True], "an attempt was in vain")
    (mail,) = say(server, "list")
    shown: dict[str, Any] = say(server, "show", mail["id"])
    return shown


def test_the_other_node_delivers_by_the_route_that_was_chosen(nodes: Nodes, sink: RecordingSink) -> None:
    port = free_port()
    with nodes.make("one", port, CHOOSING) as one, nodes.make("two", port) as two:
        send(one)
        mail = waiting(one)
        assert (mail["annotations"]["route"], mail["priority"]) == ("archive", "low")
        assert one.stop() == 0
        with RecordingSink(port) as archive:
            archive.wait_for(1)
            assert two.stop() == 0
        assert len(archive.mails) == 1
        assert "delivery.outcome" in two.log
    assert sink.mails == [], "nothing went where its domain would have it go"


def test_a_node_without_the_route_puts_the_mail_off_and_says_why(nodes: Nodes, sink: RecordingSink) -> None:
    port = free_port()
    with nodes.make("one", port, CHOOSING) as one:
        send(one)
        waiting(one)
        assert one.stop() == 0
        with nodes.make("two", None) as two:
            wait_until(lambda: "delivery.no_such_route" in two.log, "the other node tried it")
            mail = waiting(two)
            (reply,) = [recipient["reply"] for recipient in mail["recipients"]]
            assert "451 4.3.5" in reply
            assert "route 'archive'" in reply
            assert mail["state"] == "deferred"
            with RecordingSink(port) as archive:
                one.start()
                archive.wait_for(1)
                wait_until(lambda: say(one, "list") == [], "it has left")
                assert one.stop() == two.stop() == 0
            assert len(archive.mails) == 1
    assert sink.mails == [], "nothing went where its domain would have it go"
