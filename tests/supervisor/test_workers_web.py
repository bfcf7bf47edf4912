"""The web side and the control socket of a server with several workers."""

import json
import os
import signal
import smtplib
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from elemta.supervisor import siblings
from elemta.supervisor.siblings import SocketSiblings, socket_path
from tests.peers.wire import PATIENCE_SECONDS, wait_until
from tests.supervisor.several import SeveralWorkers, stopped
from tests.web.test_sibling_pages import samples

WEB = {"web": {"listen_addr": "127.0.0.1:0"}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SeveralWorkers]:
    with SeveralWorkers(tmp_path, WEB) as running:
        yield running


def page(server: SeveralWorkers, path: str) -> tuple[int, bytes]:
    """Ask the public web side over a new connection, so that any worker may answer."""
    url = f"http://127.0.0.1:{server.ready['web']['port']}{path}"
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def readiness(server: SeveralWorkers) -> tuple[int, dict[str, Any]]:
    status, body = page(server, "/readyz")
    return status, json.loads(body)


def test_metrics_are_of_all_workers_whoever_answers(server: SeveralWorkers) -> None:
    for number in (1, 2):
        with stopped(server.worker(3 - number)), smtplib.SMTP("127.0.0.1", server.port, local_hostname="c") as client:
            for _ in range(number):
                client.sendmail("s@example.org", ["r@example.net"], "Subject: one\r\n\r\nText\r\n")
    wait_until(lambda: len(server.events_of("session.ended")) == 2, "both sessions")
    for _ in range(5):
        found = samples(page(server, "/metrics")[1])
        assert found["elemta_messages_received_total"] == 3
        assert found["elemta_connections_total"] == 2
        assert found["elemta_workers_up[('worker', '1')]"] == found["elemta_workers_up[('worker', '2')]"] == 1
    assert server.stop() == 0


def test_a_worker_that_hangs_is_named(server: SeveralWorkers) -> None:
    assert readiness(server)[1]["workers"]["2"] == {"ready": True, "reason": ""}
    with stopped(server.worker(2)):
        status, says = readiness(server)
        assert (status, says["ready"]) == (200, True)
        assert says["workers"]["1"]["ready"]
        assert says["workers"]["2"]["reason"].startswith("does not answer")
        assert samples(page(server, "/metrics")[1])["elemta_workers_up[('worker', '2')]"] == 0
    assert readiness(server)[1]["workers"]["2"]["ready"]
    assert server.stop() == 0


def test_the_web_side_outlives_each_worker(server: SeveralWorkers) -> None:
    for number in (1, 2):
        os.kill(server.worker(number), signal.SIGKILL)
        assert readiness(server)[0] == 200
        server.wait_for_events("worker.ready", 2 + number)
    assert readiness(server)[1]["workers"] == {str(number): {"ready": True, "reason": ""} for number in (1, 2)}
    assert server.stop() == 0


def test_the_queue_commands_find_one_control_socket(server: SeveralWorkers) -> None:
    assert server.ready["control"] == str(server.folder / "queue" / "control.sock")
    command = [sys.executable, "-m", "elemta", "queue", "list", "-o", "json"]
    for number in (1, 2):
        os.kill(server.worker(number), signal.SIGKILL)
        ended = subprocess.run(command, cwd=server.folder, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, json.loads(ended.stdout)) == (0, []), ended.stderr
        server.wait_for_events("worker.ready", 2 + number)
    assert server.stop() == 0


# ---- the road between workers --------------------------------------------------------------------


async def answering(
    path: Path, answer: bytes, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer each request at a unix socket with the same octets."""
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(str(path))
    sock.listen()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        task_status.started()
        await trio.serve_listeners(serve, [trio.SocketListener(sock)], handler_nursery=nursery)


OK = b"HTTP/1.1 200 \r\nContent-Length: 4\r\n\r\nbody"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (OK, b"body"),
        (OK.replace(b"200", b"503"), b"body"),
        (OK.replace(b"200", b"500"), None),
        (OK[:-1], None),
        (b"", None),
        (b"HTTP/1.1 200 \r\n\r\nbody", None),
    ],
    ids=["whole", "not ready", "a defect", "cut", "nothing", "of no known length"],
)
async def test_an_answer_counts_when_it_is_whole(tmp_path: Path, answer: bytes, found: bytes | None) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(answering, socket_path(tmp_path, 2), answer)
        assert await SocketSiblings(tmp_path, number=1, processes=3).ask("/readyz") == {2: found, 3: None}
        nursery.cancel_scope.cancel()


async def test_a_sibling_that_is_silent_costs_a_bounded_time(tmp_path: Path) -> None:
    with trio.socket.socket(trio.socket.AF_UNIX) as silent:
        await silent.bind(str(socket_path(tmp_path, 1)))
        silent.listen()
        async with trio.open_nursery() as nursery:
            await nursery.start(answering, socket_path(tmp_path, 3), OK)
            began = trio.current_time()
            assert await SocketSiblings(tmp_path, number=2, processes=3).ask("/metrics") == {1: None, 3: b"body"}
            assert siblings.ANSWER_SECONDS * 0.9 <= trio.current_time() - began < PATIENCE_SECONDS
            nursery.cancel_scope.cancel()


async def test_a_long_folder_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.chdir(folder)
    async with trio.open_nursery() as nursery:
        await nursery.start(answering, Path(socket_path(folder, 2).name), OK)
        assert await SocketSiblings(folder, number=1, processes=2).ask("/readyz") == {2: b"body"}
        nursery.cancel_scope.cancel()
