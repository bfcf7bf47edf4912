"""A real rspamd: over HTTP, and as a milter; with a rule that does what the subject of a mail tells it to.

What is not here: assertions. It has its test patterns, and asks neither DNS nor anything else.
"""

from pathlib import Path

from tests.peers.scanners import Daemon, as_nobody
from tests.peers.wire import free_port

#: What the guarded worker wants to hear.
PASSWORD = "hunter2"

# Two suffixes instead of ten thousand, no hyperscan: both take seconds at the start.
_CONF = """
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
worker "normal" {{
  bind_socket = "127.0.0.1:{port}";
  bind_socket = "{folder}/rspamd.sock mode=0666";
  count = 1;
}}
worker "controller" {{ bind_socket = "127.0.0.1:{guarded}"; count = 1; password = "{password}"; secure_ip = []; }}
worker "rspamd_proxy" {{
  bind_socket = "127.0.0.1:{milter}";
  count = 1;
  milter = yes;
  upstream "local" {{ default = yes; self_scan = yes; }}
}}
lua = "{folder}/rules.lua";
"""

_RULES = """
rspamd_config:register_symbol{
  name = 'OBEY',
  type = 'prefilter',
  callback = function(task)
    local subject = task:get_subject() or ''
    local from = task:get_from('smtp')
    local told = { from and from[1] and from[1].addr or 'nobody' }
    for _, rcpt in ipairs(task:get_recipients('smtp') or {}) do table.insert(told, rcpt.addr) end
    table.insert(told, tostring(task:get_from_ip()))
    table.insert(told, task:get_hostname() or 'no name')
    table.insert(told, task:get_helo() or 'no helo')
    table.insert(told, task:get_user() or 'no user')
    table.insert(told, task:get_queue_id() or 'no id')
    table.insert(told, tostring(task:get_size()))
    if subject == 'tell' then
      task:set_pre_result('reject', table.concat(told, ' '))
    elseif subject == 'later' then
      task:set_pre_result('soft reject', 'come back later')
    elseif subject == 'grey' then
      task:insert_result('FIVE_POINTS', 1.0)
    elseif subject == 'spam' then
      task:set_pre_result('add header', 'spam')
    elseif subject == 'rewrite' then
      task:set_pre_result('rewrite subject', 'spam')
    elseif subject == 'change' then
      task:set_milter_reply({
        add_headers = { ['X-Told'] = table.concat(told, ' '), ['X-First'] = { value = 'first', order = 1 } },
        remove_headers = { ['X-Gone'] = 2 },
        change_from = 'new@example.net',
        add_rcpt = { 'eva@example.com' },
        del_rcpt = { 'max@example.com' },
      })
    end
  end
}
rspamd_config:set_metric_symbol('FIVE_POINTS', 5.0, 'five points')
"""


class Rspamd(Daemon):
    """rspamd. `port` and `path` are where it speaks HTTP, `guarded` is a port that asks for the password, `milter` one
    where it speaks the milter protocol."""

    def __init__(self, program: Path, folder: Path) -> None:
        super().__init__(program, folder)
        self.guarded, self.milter = free_port(), free_port()
        self.path = folder / "rspamd.sock"

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.port, self.guarded, self.milter)

    def prepare(self) -> list[str]:
        (self.folder / "suffixes").write_text("com\norg\n")
        (self.folder / "rules.lua").write_text(_RULES)
        ports = {"port": self.port, "guarded": self.guarded, "milter": self.milter}
        (self.folder / "rspamd.conf").write_text(_CONF.format(folder=self.folder, password=PASSWORD, **ports))
        places = [f"--var={name}={self.folder}" for name in ("DBDIR", "RUNDIR", "LOGDIR", "LOCAL_CONFDIR")]
        conf = f"--config={self.folder}/rspamd.conf"
        return ["--no-fork", conf, *places, *as_nobody("--user=nobody", "--group=nogroup")]
