"""How a command reaches the queue: over the control socket of a running server, or the stopped server's own files.

Either way the same pages answer (`web.app.control_app`), so that there is one road and nothing is written behind a
dispatcher's back: the files are opened only under the queue's lock (`cli.queue_store`). What is not here: what is
asked. Everything that is slow to import is imported when a command runs. Failure raised: `CommandError`.
"""

import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlencode

import click

from elemta.cli.client_road import Answer, CallRoad, Request, Road, SocketRoad
from elemta.cli.invocation import Invocation
from elemta.cli.output import CommandError, ExitCode
from elemta.cli.queue_store import locked, opened
from elemta.config.addresses import UNIX_PATH_OCTETS

if TYPE_CHECKING:
    from elemta.config.sections import Config
    from elemta.web.control import Control

_Command = TypeVar("_Command", bound=Callable[..., Any])
_T = TypeVar("_T")

#: Which of the two stores a command works on.
Room = Literal["queue", "inbox"]

#: Seconds for an answer that waits for nothing: the store may have a long commit in hand.
ANSWER_SECONDS = 60.0
#: Octets of content asked for at once.
PIECE_OCTETS = 1024 * 1024

_EXIT_OF_CODE = {"bad-request": ExitCode.USAGE, "store-unavailable": ExitCode.TEMPORARY}


class Refused(CommandError):
    """The server's problem document (RFC 9457 §3) as a failure of the command."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail, _EXIT_OF_CODE.get(code, ExitCode.FAILED))
        self.code = code


class Api:
    """The operators' pages. `running` is False when a stopped server's files are asked."""

    def __init__(self, road: Road, *, running: bool) -> None:
        self._road = road
        self.running = running

    async def get(
        self, path: str, parameters: Mapping[str, object] | None = None, *, seconds: float = ANSWER_SECONDS
    ) -> dict[str, Any]:
        """Ask a page; parameters that are None are left out. Raises `CommandError`."""
        given = {name: value for name, value in (parameters or {}).items() if value is not None}
        return _document(await self._road.send(Request("GET", _target(path, given), seconds)))

    async def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Give an order. Raises `CommandError`."""
        octets, headers = json.dumps(body).encode(), {"content-type": "application/json"}
        return _document(await self._road.send(Request("POST", _target(path), ANSWER_SECONDS, octets, headers)))

    async def delete(self, path: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        """Remove something. Raises `CommandError`."""
        return _document(await self._road.send(Request("DELETE", _target(path, parameters), ANSWER_SECONDS)))

    async def content(self, path: str, write: Callable[[bytes], object], limit: int | None = None) -> int:
        """Hand a mail's octets to `write`, piece by piece, at most `limit`; returns its size. Raises `CommandError`."""
        offset, size = 0, 1
        while offset < size and (limit is None or offset < limit):
            wanted = {"range": f"bytes={offset}-{offset + PIECE_OCTETS - 1}"}
            answer = await self._road.send(Request("GET", _target(path), ANSWER_SECONDS, headers=wanted))
            size = int(answer.headers.get("content-range", "/0").rpartition("/")[2])
            if answer.status == 416 and size == 0:
                break
            if answer.status != 206:
                _document(answer)
                raise CommandError("the server does not send mails in pieces: is it of another version?")
            piece = answer.content if limit is None else answer.content[: limit - offset]
            write(piece)
            offset += len(answer.content)
        return size


def _target(path: str, parameters: Mapping[str, object] | None = None) -> str:
    from elemta.web.base import PREFIX

    if not parameters:
        return f"{PREFIX}{path}"
    # What the shell gave need not be UTF-8; its octets go as they came.
    return f"{PREFIX}{path}?{urlencode(parameters, errors='surrogateescape')}"


def _document(answer: Answer) -> dict[str, Any]:
    """The JSON object of an answer. Raises `Refused` with what the server says, `CommandError` for anything else."""
    try:
        found = json.loads(answer.content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CommandError(f"the server's answer ({answer.status}) is not understood: is it of another version?")
    if 200 <= answer.status <= 299:
        return found
    raise Refused(str(found.get("code")), str(found.get("detail") or f"the server answered {answer.status}"))


def connect_option(command: _Command) -> _Command:
    """Add `--connect`; the command gets `connect: str | None`."""
    return click.option(
        "--connect",
        metavar="unix:PATH",
        envvar="ELEMTA_CONNECT",
        help="The control socket of the server; by default the one in queue_dir of the configuration.",
    )(command)


def ask(
    invocation: Invocation, connect: str | None, job: Callable[[Api], Coroutine[Any, Any, _T]], *, room: Room = "queue"
) -> _T:
    """Run `job`, which awaits the pages alone, with those of whoever has the queue. Raises `CommandError`."""
    with contextlib.ExitStack() as stack:
        if connect is not None:
            path, config = _named(connect), None
        else:
            config = invocation.load().config
            path = _control_path(config)
        address = _answering(path, stack)
        if address is not None:
            return _run_at_once(job(Api(SocketRoad(address), running=True)))
    if config is None:
        raise CommandError(f"no server answers at {path}.", ExitCode.UNREACHABLE)
    import trio

    return trio.run(_over_files, config, room, job)


def _named(connect: str) -> Path:
    path = connect.removeprefix("unix:")
    if path == connect or not path:
        raise CommandError(f'"{connect}" names no control socket: write unix:/path/to/control.sock', ExitCode.USAGE)
    return Path(path)


def _control_path(config: "Config") -> Path:
    from elemta.web.base import CONTROL_NAME

    return Path(config.queue_dir, CONTROL_NAME).absolute()


# ---- a running server ----------------------------------------------------------------------------


def _answering(path: Path, stack: contextlib.ExitStack) -> str | None:
    """The address of a socket that somebody listens at, good while the stack is open; None when nobody does."""
    try:
        address = _short(path, stack)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(ANSWER_SECONDS)
            probe.connect(address)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        return None
    except PermissionError:
        raise CommandError(
            f"the control socket {path} belongs to another user; run this as that user.", ExitCode.PERMISSION
        ) from None
    except OSError as error:
        reason = f"{error.strerror or error}".rstrip(".")
        raise CommandError(f"the control socket {path} cannot be used: {reason}.", ExitCode.UNREACHABLE) from None
    return address


def _short(path: Path, stack: contextlib.ExitStack) -> str:
    if len(os.fsencode(path)) <= UNIX_PATH_OCTETS:
        return str(path)
    # Late: with it comes Trio, which takes longer to import than everything else here.
    from elemta.web.sockets import short_address

    return stack.enter_context(short_address(path))


def _run_at_once(job: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that blocks where another one would await."""
    try:
        job.send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    job.close()
    raise RuntimeError("a command waited for an event loop, and none is running")


# ---- a stopped server ----------------------------------------------------------------------------


async def _over_files(config: "Config", room: Room, job: Callable[[Api], Coroutine[Any, Any, _T]]) -> _T:
    from elemta.web.app import control_app

    with locked(config, always=room == "inbox"):
        async with _control(config, room) as control:
            return await job(Api(CallRoad(control_app(control)), running=False))


@contextlib.asynccontextmanager
async def _control(config: "Config", room: Room) -> AsyncIterator["Control"]:
    """The pages' services over the files, or over a database that nodes share."""
    from elemta.cli.client_files import FilesQueue, NotRunning
    from elemta.observe.log import make_logger
    from elemta.observe.metrics import Metrics
    from elemta.runtime.world import system_runtime
    from elemta.web.base import Identity
    from elemta.web.control import Control

    runtime = system_runtime()
    async with opened(config, runtime, inbox=room == "inbox") as stores:
        yield Control(
            queue=FilesQueue(stores.queue),
            store=stores.queue,
            shared=stores.shared,
            inbox=stores.inbox if room == "inbox" else None,
            health=NotRunning(),
            metrics=Metrics(),
            clock=runtime.clock,
            identity=Identity(config.hostname, runtime.clock.wall(), running=False, dev_mode=config.dev_mode),
            log=make_logger("warning", "auto"),
        )
