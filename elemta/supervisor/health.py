"""Whether the server can do its work now.

What is not here: the pages that show it (`web`). A check is a sentence for people; an empty one is a good one.
"""

import os
from collections.abc import Mapping

from elemta.auth.authenticator import Authenticator
from elemta.supervisor.server import Server

#: Octets that must be free where the queue lies; under it new mail will soon be refused.
DISK_FLOOR_OCTETS = 64 * 1024 * 1024
#: Inodes that must be free there. Large mails are files of their own.
DISK_FLOOR_INODES = 1000


class ServerHealth:
    """Looks at the listeners, the store, the disk, at logins where clients may log in."""

    def __init__(self, server: Server, queue_dir: str, login: Authenticator | None = None) -> None:
        self._server = server
        self._queue_dir = queue_dir
        self._login = login

    def checks(self) -> Mapping[str, str]:
        """What is wrong by the name of the check: `listeners`, `store`, `node`, `disk`; empty where all is well.

        `auth` is there where clients may log in; it does not make a server unready, which takes mail all the same.
        """
        checks = {"listeners": self._listeners(), "store": self._store(), "node": self._node(), "disk": self._disk()}
        return checks if self._login is None else {**checks, "auth": self._login.trouble}

    def _listeners(self) -> str:
        return "" if self._server.parts.inbound.accepting else "no new connections are served: starting or draining"

    def _store(self) -> str:
        return self._server.parts.queue.trouble

    def _node(self) -> str:
        return "an operator drains this node; others deliver what it takes" if self._server.parts.queue.resting else ""

    def _disk(self) -> str:
        try:
            facts = os.statvfs(self._queue_dir)
        except OSError as error:
            return f"{self._queue_dir} cannot be looked at: {error.strerror}"
        free = facts.f_bavail * facts.f_frsize
        if free < DISK_FLOOR_OCTETS:
            return f"only {free // 1024 // 1024} MiB are free in {self._queue_dir}"
        if facts.f_files and facts.f_favail < DISK_FLOOR_INODES:
            return f"only {facts.f_favail} inodes are free in {self._queue_dir}"
        return ""
