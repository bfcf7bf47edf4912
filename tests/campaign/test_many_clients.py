"""Promises 14, 16, 24, the long forms: as many clients as the promises name."""

import os
from pathlib import Path

from elemta.testing.process import ServerProcess
from tests.peers.test_hostile import check_memory, check_slow_clients, discarding
from tests.peers.test_logs import check_fuzzed_sessions
from tests.peers.test_plugged_server import check_fuzzed_sessions_with_plugins
from tests.peers.wire import make_certificate

IDLE_CLIENTS = int(os.environ.get("ELEMTA_TEST_IDLE_CLIENTS", "2000"))
LARGE_MAILS = int(os.environ.get("ELEMTA_TEST_LARGE_MAILS", "200"))
SLOW_CLIENTS = int(os.environ.get("ELEMTA_TEST_SLOW_CLIENTS", "999"))
FUZZED_SESSIONS = int(os.environ.get("ELEMTA_TEST_FUZZED_SESSIONS", "5000"))


def test_memory_with_many_clients(tmp_path: Path) -> None:
    check_memory(tmp_path, idle_clients=IDLE_CLIENTS, large_mails=LARGE_MAILS)


def test_many_slow_clients(tmp_path: Path) -> None:
    check_slow_clients(tmp_path, make_certificate(tmp_path), clients=SLOW_CLIENTS)


def test_many_fuzzed_sessions(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, discarding(limits={"max_connections_per_address": 500})) as server:
        check_fuzzed_sessions(server, sessions=FUZZED_SESSIONS)


def test_many_fuzzed_sessions_with_plugins(tmp_path: Path) -> None:
    check_fuzzed_sessions_with_plugins(tmp_path, sessions=FUZZED_SESSIONS)
