"""What the tests of the queue and inbox commands share.

A command is run in this process, as a person types it; behind the control socket stands a real Hypercorn in a thread.
"""

import contextlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import frozen

from elemta.cli.main import main
from elemta.web.base import CONTROL_NAME
from elemta.web.serve import serve
from tests.web.desk import Desk


@frozen
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """What it printed, line by line."""
        return self.out.splitlines()


class Terminal:
    """Runs commands in a folder whose configuration names its queue."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.queue_dir = folder / "queue"
        self.configure()
        self._capsys = capsys

    def configure(self, **keys: object) -> None:
        """Write the configuration."""
        whole = {"queue_dir": str(self.queue_dir), "hostname": "mail.example.com", **keys}
        (self.folder / "elemta.conf").write_text(json.dumps(whole))

    def run(self, *words: str) -> Ended:
        """`elemta WORDS`."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["-c", str(self.folder / "elemta.conf"), *words])
        out, err = self._capsys.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, out, err)

    def octets(self, *words: str) -> bytes:
        """What `elemta WORDS` prints, octet by octet."""
        stream = io.TextIOWrapper(io.BytesIO())
        with contextlib.redirect_stdout(stream):
            assert self.run(*words).code == 0
        buffer = stream.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue()


@contextmanager
def server(desk: Desk, queue_dir: Path) -> Iterator[Callable[..., Any]]:
    """Serve a desk at the control socket of a queue folder; yields what runs an async function beside the server."""
    queue_dir.mkdir(exist_ok=True)
    ready = threading.Event()
    held: list[Any] = []

    async def run() -> None:
        shutdown = trio.Event()
        held.extend((trio.lowlevel.current_trio_token(), shutdown))
        async with trio.open_nursery() as nursery:
            bind = f"unix:{queue_dir / CONTROL_NAME}"
            await nursery.start(partial(serve, desk.app, bind=bind, shutdown=shutdown, log=desk.control.log))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    try:
        assert ready.wait(10)
        token, shutdown = held

        def beside(function: Callable[..., Any], *arguments: Any) -> Any:
            return trio.from_thread.run(function, *arguments, trio_token=token)

        yield beside
    finally:
        trio.from_thread.run_sync(shutdown.set, trio_token=token)
        thread.join(20)
        assert not thread.is_alive()
