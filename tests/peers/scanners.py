"""Real clamd, spamd, rspamd, each with a configuration, rules, a folder of its own.

What is not here: assertions. clamd knows the signatures of the test alone; spamd has the rules of Debian without those
that ask the network; rspamd has its test patterns, and one rule that tells what it was told. `folder` must be reachable
for every user: where the tests are root's, spamd and rspamd give up their rights.
"""

import hashlib
import os
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.wire import free_port, wait_until

#: The harmless file that every virus scanner finds, in two pieces: one would be found in here.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-" + rb"STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
#: The line that every spam filter finds. rspamd knows others of its kind, which begin with another letter.
GTUBE = b"JS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"

#: Octets that clamd takes.
STREAM_MAX_OCTETS = 1024 * 1024
#: What rspamd's controller wants to hear.
PASSWORD = "hunter2"

_CLAMD_CONF = """
Foreground yes
DatabaseDirectory {folder}/db
LocalSocket {folder}/clamd.ctl
TCPAddr 127.0.0.1
TCPSocket {port}
StreamMaxLength {octets}
LogFile {folder}/log
PidFile {folder}/pid
MaxThreads 2
"""

_SPAMD_PLUGINS = """
loadplugin Mail::SpamAssassin::Plugin::Check
loadplugin Mail::SpamAssassin::Plugin::BodyEval
loadplugin Mail::SpamAssassin::Plugin::HeaderEval
loadplugin Mail::SpamAssassin::Plugin::MIMEEval
"""

# Two suffixes instead of ten thousand, no hyperscan: both take seconds at the start.
_RSPAMD_CONF = """
options {{
  pidfile = "{folder}/pid";
  control_socket = "{folder}/control mode=0600";
  hs_cache_dir = "{folder}";
  url_tld = "{folder}/suffixes";
  disable_hyperscan = true;
  enable_test_patterns = true;
  filters = "";
  dns {{ nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; }}
}}
logging {{ type = "console"; level = "info"; }}
actions {{ reject = 15; rewrite_subject = 8; add_header = 6; greylist = 4; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; }}
worker "controller" {{ bind_socket = "127.0.0.1:{guarded}"; count = 1; password = "{password}"; secure_ip = []; }}
lua = "{folder}/rules.lua";
"""

_RSPAMD_RULES = """
rspamd_config:register_symbol{
  name = 'TELL',
  type = 'prefilter',
  callback = function(task)
    local subject = task:get_subject() or ''
    if subject == 'tell' then
      local from = task:get_from('smtp')
      local told = { from and from[1] and from[1].addr or 'nobody' }
      for _, rcpt in ipairs(task:get_recipients('smtp') or {}) do table.insert(told, rcpt.addr) end
      table.insert(told, tostring(task:get_from_ip()))
      table.insert(told, task:get_hostname() or 'no name')
      table.insert(told, task:get_helo() or 'no helo')
      table.insert(told, task:get_user() or 'no user')
      table.insert(told, task:get_queue_id() or 'no id')
      table.insert(told, tostring(task:get_size()))
      task:set_pre_result('reject', table.concat(told, ' '))
    elseif subject == 'later' then
      task:set_pre_result('soft reject', 'come back later')
    elseif subject == 'grey' then
      task:insert_result('FIVE_POINTS', 1.0)
    end
  end
}
rspamd_config:set_metric_symbol('FIVE_POINTS', 5.0, 'five points')
"""


class Daemon:
    """One daemon; runs while entered. `port` is where it listens on loopback."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it listens, as the configuration writes it."""
        return f"127.0.0.1:{self.port}"

    def prepare(self) -> list[str]:
        """Write the configuration; the arguments."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        arguments = self.prepare()
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody")
        with (self.folder / "output").open("wb") as output:
            self._process = subprocess.Popen([self._program, *arguments], stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until(self._listens, f"{self._program.name} listens")
        except BaseException as error:
            error.add_note((self.folder / "output").read_text(errors="replace"))
            self.__exit__(None, None, None)
            raise
        return self

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self._program.name} has ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)


def _as_nobody(*options: str) -> tuple[str, ...]:
    """Options for root alone."""
    return options if os.geteuid() == 0 else ()


class Clamd(Daemon):
    """ClamAV; knows EICAR and nothing else."""

    def prepare(self) -> list[str]:
        (self.folder / "db").mkdir()
        signature = f"{hashlib.md5(EICAR).hexdigest()}:{len(EICAR)}:Test.EICAR\n"
        (self.folder / "db" / "test.hdb").write_text(signature)
        conf = _CLAMD_CONF.format(folder=self.folder, port=self.port, octets=STREAM_MAX_OCTETS)
        (self.folder / "clamd.conf").write_text(conf)
        return ["-c", f"{self.folder}/clamd.conf"]


class Spamd(Daemon):
    """SpamAssassin; asks nobody on the network."""

    def prepare(self) -> list[str]:
        (self.folder / "init.pre").write_text(_SPAMD_PLUGINS)
        own = [f"--siteconfigpath={self.folder}", "--nouser-config", f"--helper-home-dir={self.folder}"]
        bounds = ["--local", "--max-children=2", "--syslog=stderr", f"--listen={self.address}"]
        return [*own, *bounds, *_as_nobody("--username=nobody")]


class Rspamd(Daemon):
    """rspamd; `guarded` is a port that asks for the password."""

    def prepare(self) -> list[str]:
        self.guarded = free_port()
        (self.folder / "suffixes").write_text("com\norg\n")
        (self.folder / "rules.lua").write_text(_RSPAMD_RULES)
        names = {"folder": self.folder, "port": self.port, "guarded": self.guarded, "password": PASSWORD}
        (self.folder / "rspamd.conf").write_text(_RSPAMD_CONF.format(**names))
        places = [f"--var={name}={self.folder}" for name in ("DBDIR", "RUNDIR", "LOGDIR", "LOCAL_CONFDIR")]
        conf = f"--config={self.folder}/rspamd.conf"
        return ["--no-fork", conf, *places, *_as_nobody("--user=nobody", "--group=nogroup")]
