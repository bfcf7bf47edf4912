"""Fixtures of the commands' tests: a terminal, a desk with a queue, a server beside it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.at_desk import Terminal, server
from tests.web.desk import Desk


@pytest.fixture
def terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, capsys)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def beside(desk: Desk, terminal: Terminal) -> Iterator[Callable[..., Any]]:
    """A running server."""
    with server(desk, terminal.queue_dir) as run:
        yield run
