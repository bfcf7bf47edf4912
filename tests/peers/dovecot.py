"""A real Dovecot that serves LMTP, or a Postfix's SASL, with configuration, Maildirs, log of its own.

What is not here: assertions. Dovecot starts as root only, gives up its rights itself, needs folders that its own user
can reach: pytest's are not.
"""

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.wire import wait_until

_CONF = """
base_dir = {folder}/run
state_dir = {folder}/run
log_path = {folder}/log
protocols = lmtp
listen = 127.0.0.1
ssl = no
mail_location = maildir:{folder}/mail/%d/%n
mail_uid = {uid}
mail_gid = {uid}
first_valid_uid = 1
first_valid_gid = 1
default_login_user = nobody
postmaster_address = postmaster@example.com
recipient_delimiter = +
auth_mechanisms = plain login scram-sha-256
disable_plaintext_auth = no
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = passwd-file
  args = {folder}/users
}}
service auth {{
  unix_listener auth-postfix {{
    mode = 0666
  }}
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0666
  }}
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
}}
"""


#: The password of every user.
PASSWORD = "x"


class Dovecot:
    """Runs while entered; knows `users` and nobody else. `folder` must be reachable for every user.

    `sasl` is the socket for Postfix's `smtpd_sasl_path`.
    """

    def __init__(self, program: Path, folder: Path, *, port: int, users: tuple[str, ...]) -> None:
        self.port = port
        self.socket = folder / "run" / "lmtp"
        self.sasl = folder / "run" / "auth-postfix"
        self._program = program
        self._folder = folder
        for name in ("run", "mail"):
            (folder / name).mkdir(mode=0o755)
        shutil.chown(folder / "mail", "nobody")
        uid = pwd.getpwnam("nobody").pw_uid
        homes = "".join(f"{user}:{{plain}}{PASSWORD}:{uid}:{uid}::{folder}/mail/{user}\n" for user in users)
        (folder / "users").write_text(homes)
        (folder / "dovecot.conf").write_text(_CONF.format(folder=folder, port=port, uid=uid))

    def __enter__(self) -> Self:
        subprocess.run([self._program, "-c", self._folder / "dovecot.conf"], check=True, timeout=60)
        wait_until(self.socket.exists, "Dovecot listens")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pid = int((self._folder / "run" / "master.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "Dovecot has ended")

    @property
    def log(self) -> str:
        """What Dovecot logged."""
        return (self._folder / "log").read_text(errors="replace")

    def delivered(self, user: str) -> list[bytes]:
        """The mails of one user, with Dovecot's line ends (LF)."""
        local, _, domain = user.partition("@")
        return [path.read_bytes() for path in (self._folder / "mail" / domain / local).glob("new/*")]

    def wait_for(self, user: str, count: int = 1) -> list[bytes]:
        """Wait for a user's mails; all that are there."""
        wait_until(lambda: len(self.delivered(user)) >= count, f"{count} mails for {user}\n{self.log}")
        return self.delivered(user)
