"""Tells whoever started the server that it is ready.

What is not here: systemd's protocol. One JSON line on an inherited descriptor, so that tests and scripts can use
port 0.
"""

import os
from collections.abc import Sequence

import orjson

from elemta.net.base import Endpoint


def announce(descriptor: int, listeners: Sequence[tuple[str, Endpoint]], web: Endpoint | None, control: str) -> None:
    """Write `{"listeners": [{"name", "host", "port"}], "web": {"host", "port"}, "control", "pid"}` and close.

    Raises `OSError` for a descriptor that nobody opened.
    """
    line = orjson.dumps(
        {
            "pid": os.getpid(),
            "listeners": [{"name": name, "host": end.host, "port": end.port} for name, end in listeners],
            "web": None if web is None else {"host": web.host, "port": web.port},
            "control": control,
        }
    )
    with os.fdopen(descriptor, "wb") as pipe:
        pipe.write(line + b"\n")
