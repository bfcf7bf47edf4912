"""What dev mode says when it starts: settings ready to paste.

What is not here: the log.
"""

from elemta.net.base import Endpoint


def dev_banner(smtp: Endpoint, web: Endpoint | None, control: str) -> str:
    """The text for a person at a terminal."""
    host = "127.0.0.1" if smtp.host in ("0.0.0.0", "") else smtp.host
    health = f"Health and metrics: http://{web}/readyz" if web else "Health and metrics: off"
    return f"""\
Elemta catches mail at {Endpoint(host, smtp.port)}: no mail leaves this machine.

  Django   EMAIL_HOST = "{host}"
           EMAIL_PORT = {smtp.port}
  Python   smtplib.SMTP("{host}", {smtp.port}).send_message(message)

See the mails: elemta inbox list, elemta inbox show ID. {health}
Stop with Ctrl-C. (control socket: {control})
"""
