"""A light client that logs in, again and again: threads with blocking sockets.

    python tests/bench/login_client.py PORT [--sessions 10] [--logins 500] [--password wrong]

It is a process of its own, lest whoever measures shares an interpreter with it, and imports the standard library alone.
Each login is a connection of its own: greeting, EHLO, AUTH, QUIT. It prints one JSON object: what `Figures` holds.
What is not here: servers, rounds, tables. Raises `Refused` for any other reply than the one asked for.
"""

import argparse
import base64
import json
import socket
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

REPLY_OCTETS = 4096


class Refused(Exception):
    """The server said something else; the text has what was asked and what was heard."""


@dataclass(frozen=True)
class Plan:
    """What is to be done."""

    port: int
    sessions: int = 10
    logins: int = 500
    user: str = "jo@example.com"
    password: str = "correct horse"
    code: str = "235"


@dataclass(frozen=True)
class Figures:
    """`rate` in logins a second, `p50` from AUTH to its reply in milliseconds."""

    rate: float
    p50: float


def log_in(plan: Plan) -> float:
    """One login; the seconds from AUTH to its reply."""
    message = base64.b64encode(f"\0{plan.user}\0{plan.password}".encode())
    with socket.create_connection(("127.0.0.1", plan.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _ask(connection, b"", "220")
        _ask(connection, b"EHLO client.example.org\r\n", "250")
        began = time.perf_counter()
        _ask(connection, b"AUTH PLAIN " + message + b"\r\n", plan.code)
        took = time.perf_counter() - began
        _ask(connection, b"QUIT\r\n", "221")
        return took


def _ask(connection: socket.socket, octets: bytes, code: str) -> None:
    if octets:
        connection.sendall(octets)
    reply = b""
    while not reply.endswith(b"\r\n") or reply.splitlines()[-1][3:4] == b"-":
        piece = connection.recv(REPLY_OCTETS)
        if not piece:
            break
        reply += piece
    if not reply.startswith(code.encode()):
        raise Refused(f"{octets[:12]!r} wants {code}, the server said {reply!r}")


def measure(plan: Plan) -> Figures:
    """Log in as often as the plan says, in as many sessions at once."""
    began = time.perf_counter()
    with ThreadPoolExecutor(plan.sessions) as pool:
        waits: Sequence[float] = list(pool.map(log_in, [plan] * plan.logins))
    return Figures(plan.logins / (time.perf_counter() - began), statistics.median(waits) * 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--sessions", type=int, default=Plan.sessions)
    parser.add_argument("--logins", type=int, default=Plan.logins)
    parser.add_argument("--password", default=Plan.password)
    parser.add_argument("--code", default=Plan.code)
    chosen = parser.parse_args()
    plan = Plan(chosen.port, chosen.sessions, chosen.logins, password=chosen.password, code=chosen.code)
    print(json.dumps(asdict(measure(plan))))


if __name__ == "__main__":
    main()
