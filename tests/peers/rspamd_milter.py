"""A real rspamd that speaks the milter protocol, with a rule that does what the subject of a mail tells it to.

What is not here: assertions. It asks neither DNS nor anything else.
"""

import os

from tests.peers.scanners import Daemon

# Two suffixes instead of ten thousand, no hyperscan: both take seconds at the start.
_CONF = """
options {{
  pidfile = "{folder}/pid";
  control_socket = "{folder}/control mode=0600";
  hs_cache_dir = "{folder}";
  url_tld = "{folder}/suffixes";
  disable_hyperscan = true;
  filters = "";
  dns {{ nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; }}
}}
logging {{ type = "console"; level = "info"; }}
actions {{ reject = 15; rewrite_subject = 8; add_header = 6; greylist = 4; }}
worker "rspamd_proxy" {{
  bind_socket = "127.0.0.1:{port}";
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
    table.insert(told, tostring(#task:get_rawbody()))
    if subject == 'refuse' then
      task:set_pre_result('reject', table.concat(told, ' '))
    elseif subject == 'later' then
      task:set_pre_result('soft reject', 'come back later')
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
"""


class RspamdMilter(Daemon):
    """rspamd's proxy, which scans by itself."""

    def prepare(self) -> list[str]:
        (self.folder / "suffixes").write_text("com\norg\n")
        (self.folder / "rules.lua").write_text(_RULES)
        (self.folder / "rspamd.conf").write_text(_CONF.format(folder=self.folder, port=self.port))
        places = [f"--var={name}={self.folder}" for name in ("DBDIR", "RUNDIR", "LOGDIR", "LOCAL_CONFDIR")]
        rights = ["--user=nobody", "--group=nogroup"] if os.geteuid() == 0 else []
        return ["--no-fork", f"--config={self.folder}/rspamd.conf", *places, *rights]
