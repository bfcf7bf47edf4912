#!/usr/bin/env python3
"""Sends one mail to an SMTP server, and shows what both sides say.

    python3 test_smtp.py                                    a server in dev mode on this machine
    python3 test_smtp.py mail.example.com 25 --to you@example.com

It needs nothing but Python. Exit code 0 when the server took the mail, 1 when it did not.
"""

import argparse
import smtplib
import sys
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

#: Seconds to wait for any answer.
TIMEOUT_SECONDS = 30


def message(sender: str, recipient: str) -> EmailMessage:
    """The mail."""
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = recipient
    mail["Subject"] = "Test mail"
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    mail.set_content("This mail was sent by test_smtp.py.\n.\nThe line above is a dot.\n")
    return mail


def main() -> int:
    """Send it; the exit code."""
    parser = argparse.ArgumentParser(description="Send one mail to an SMTP server.")
    parser.add_argument("host", nargs="?", default="127.0.0.1")
    parser.add_argument("port", nargs="?", type=int, default=2525)
    parser.add_argument("--from", dest="sender", default="sender@example.com")
    parser.add_argument("--to", default="recipient@example.com")
    parser.add_argument("--starttls", action="store_true", help="encrypt, with a certificate that is checked")
    given = parser.parse_args()
    try:
        with smtplib.SMTP(given.host, given.port, timeout=TIMEOUT_SECONDS) as server:
            server.set_debuglevel(1)
            if given.starttls:
                import ssl

                server.starttls(context=ssl.create_default_context())
            server.send_message(message(given.sender, given.to), given.sender, [given.to])
    except (OSError, smtplib.SMTPException) as error:
        print(f"not sent: {error}", file=sys.stderr)
        return 1
    print(f"sent to {given.to} by {given.host}:{given.port}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
