"""A real Postfix with configuration, queue, log of its own.

What is not here: assertions. Postfix starts as root only, gives up its rights itself, needs folders that its own user
can reach: pytest's are not.
Failures raised: `subprocess.CalledProcessError` with what Postfix said.
"""

import pwd
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.wire import wait_until

#: Domains whose mail this Postfix keeps; all other mail goes to its relayhost.
LOCAL_DOMAIN = "example.net"

_MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
meta_directory = /etc/postfix
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
mail_owner = postfix
setgid_group = postdrop
myhostname = postfix.example.com
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
local_header_rewrite_clients =
disable_dns_lookups = yes
smtp_host_lookup = native
relayhost = [127.0.0.1]:{relay_port}
message_size_limit = 30000000
virtual_mailbox_limit = 0
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:box/
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{uid}
virtual_minimum_uid = 1
smtpd_relay_restrictions = permit_mynetworks, reject
{extra}
"""

_MASTER = """
{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """Runs while entered. `folder` must be reachable for every user. `relay_port` is where mail for others goes.

    `extra` is added to main.cf, `services` to master.cf.
    """

    def __init__(
        self, program: Path, folder: Path, *, port: int, relay_port: int = 9, extra: str = "", services: str = ""
    ) -> None:
        self.port = port
        self._program = program
        self._conf = folder / "conf"
        self._log = folder / "log"
        self._mail = folder / "mail"
        for name in ("conf", "queue", "data", "mail"):
            (folder / name).mkdir(mode=0o755)
        shutil.chown(folder / "data", "postfix")
        shutil.chown(self._mail, "nobody")
        words = {"folder": folder, "port": port, "relay_port": relay_port, "domain": LOCAL_DOMAIN, "extra": extra}
        words["uid"] = pwd.getpwnam("nobody").pw_uid
        (self._conf / "main.cf").write_text(_MAIN.format(**words))
        (self._conf / "master.cf").write_text(_MASTER.format(**words) + services)

    def __enter__(self) -> Self:
        self._run("start")
        wait_until(lambda: "daemon started" in self.log, "Postfix's master runs")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run("stop")

    def _run(self, verb: str) -> None:
        with (self._conf / "output").open("ab") as output:
            subprocess.run(
                [self._program, "-c", self._conf, verb],
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=60,
            )

    @property
    def log(self) -> str:
        """What Postfix logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def delivered(self) -> list[bytes]:
        """Every mail in the one Maildir, with Postfix's line ends (LF)."""
        return [path.read_bytes() for path in self._mail.glob("box/new/*")]

    def wait_for(self, count: int) -> list[bytes]:
        """Wait for so many mails in the Maildir; all that are there."""
        wait_until(lambda: len(self.delivered()) >= count, f"{count} mails in Postfix's Maildir\n{self.log}")
        return self.delivered()
