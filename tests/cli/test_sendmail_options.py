"""Sendmail's command line, as its callers write it."""

import pytest

from elemta.cli.sendmail_options import Mode, Order, read_options
from elemta.cli.sendmail_trouble import SysExit, Trouble
from elemta.mail.envelope import BodyType, Notify, Ret


@pytest.mark.parametrize(
    ("line", "order"),
    [
        ("jo@x.org", Order(recipients=["jo@x.org"])),
        # PHP's sendmail_path, with and without mail()'s fifth parameter.
        ("-t -i", Order(from_header=True, dot_ends=False)),
        ("-t -i -fphp@x.org", Order(from_header=True, dot_ends=False, sender="php@x.org")),
        ("-ti", Order(from_header=True, dot_ends=False)),
        # cronie, then Debian's cron.
        ("-FCronDaemon -i -odi -oem -oi -t -f root",
         Order(full_name="CronDaemon", dot_ends=False, from_header=True, sender="root")),
        ("-i -FCronDaemon -B8BITMIME -oem root",
         Order(full_name="CronDaemon", dot_ends=False, body=BodyType.EIGHT_BIT_MIME, recipients=["root"])),
        # mutt, then git send-email.
        ("-oem -oi -f me@x.org -- jo@x.org", Order(dot_ends=False, sender="me@x.org", recipients=["jo@x.org"])),
        ("-f me@x.org -i jo@x.org doe@x.org",
         Order(sender="me@x.org", dot_ends=False, recipients=["jo@x.org", "doe@x.org"])),
        ("-r me@x.org jo", Order(sender="me@x.org", recipients=["jo"])),
        ("-f <> jo", Order(sender="", recipients=["jo"])),
        ("-f <me@x.org> jo", Order(sender="<me@x.org>", recipients=["jo"])),
        ("-Nnever jo", Order(notify=Notify.NEVER, recipients=["jo"])),
        ("-N success,DELAY -R hdrs -V id7 jo",
         Order(notify=Notify.SUCCESS | Notify.DELAY, ret=Ret.HEADERS, envelope_id="id7", recipients=["jo"])),
        ("-v -O DeliveryMode=b -O IgnoreDots=true -L tag -h 3 -Am -d0.1 jo",
         Order(verbose=True, dot_ends=False, recipients=["jo"])),
        ("-bs", Order(mode=Mode.SMTP)),
        ("-bm jo", Order(recipients=["jo"])),
        ("-bp", Order(mode=Mode.LIST)),
        ("-bi", Order(mode=Mode.NOTHING)),
        ("-q", Order(mode=Mode.NOTHING)),
        ("-q15m", Order(mode=Mode.NOTHING)),
        ("-C elemta.conf jo", Order(config_path="elemta.conf", recipients=["jo"])),
        # The first word that is no option ends them, as with every sendmail.
        ("jo -t", Order(recipients=["jo", "-t"])),
        ("-- -t", Order(recipients=["-t"])),
    ],
)  # fmt: skip
def test_a_line_is_understood(line: str, order: Order) -> None:
    assert read_options(line.split()) == order


@pytest.mark.parametrize(
    "line",
    ["-z jo", "-tz", "-f", "-bd", "-bx", "-B 9BIT jo", "-N sometimes jo", "-N never,success jo", "-R all jo", "-V ö"],
)
def test_a_line_is_refused(line: str) -> None:
    with pytest.raises(Trouble) as trouble:
        read_options(line.split())
    assert trouble.value.status is SysExit.USAGE
    assert f"-{line[1]}" in trouble.value.says or "-z" in trouble.value.says
