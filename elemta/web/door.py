"""The outermost layer around every page.

It refuses foreign hosts, adds the headers that keep browsers out of trouble, and turns an unforeseen exception into one
log event, so that a defect in a page ends its request and nothing else. What is not here: the pages.
"""

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from elemta.web.problems import Problem, response_of

#: `host`, `host:port`, `[v6]`, `[v6]:port`; RFC 9110 §7.2.
_HOST = re.compile(r"(?:\[(?P<literal>[0-9a-f:.]{2,45})\]|(?P<name>[0-9a-z._-]{1,255}))(?::\d{1,5})?", re.ASCII)

#: Nothing here is a page for a browser: no script, no frame, no sniffing, no copy kept, no other origin may read it.
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

#: Characters of a path in the log: the longest of ours is 60.
PATH_CHARACTERS = 200


class HostRule:
    """Which `Host` headers are ours: loopback names and addresses, and the names that were configured.

    A page that a stranger's name points to (DNS rebinding) passes every other check: its requests look like its own.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.lower().strip("[]") for name in names) | {"localhost"}

    def allows(self, hosts: list[bytes]) -> bool:
        """True for exactly one header that names us."""
        if len(hosts) != 1:
            return False
        match = _HOST.fullmatch(hosts[0].decode("latin-1").strip().lower())
        if match is None:
            return False
        name = match["literal"] or match["name"].removesuffix(".")
        if name in self._names:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


class Door:
    """An ASGI application around another one. `hosts` is None where no host can be named, as on a unix socket."""

    def __init__(self, app: ASGIApp, *, hosts: HostRule | None, log: FilteringBoundLogger) -> None:
        self._app = app
        self._hosts = hosts
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answered = False

        async def sending(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                message = {**message, "headers": headers.raw}
            await send(message)

        try:
            await self._answer(scope, receive, sending)
        except Exception as error:
            # The path is quoted: what a stranger wrote cannot forge a line.
            path = quote(scope["path"])[:PATH_CHARACTERS]
            says = f"{type(error).__name__}: {error}"
            self._log.error("web.defect", path=path, answered=answered, error=says, exc_info=error)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if self._hosts is None or self._hosts.allows(hosts):
            await self._app(scope, receive, send)
            return
        refused = Problem(421, "misdirected", "this server does not answer under that Host; use 127.0.0.1 or localhost")
        await response_of(refused)(scope, receive, send)
