#!/usr/bin/env python3
"""Logs in at an SMTP server, first with a wrong password, then with the right one, and sends a mail.

    python3 test_smtp_auth.py mail.example.com 587 --starttls --user jo@example.com
    python3 test_smtp_auth.py 127.0.0.1 2525 --user jo@example.com < password.txt

The password comes from a prompt, or a line on standard input. It needs nothing but Python. Exit code 0 when the server
refused the wrong password, took the right one, and took the mail; 1 when it did not.
"""

import argparse
import getpass
import smtplib
import ssl
import sys
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

#: Seconds to wait for any answer: a server may take its time to say no.
TIMEOUT_SECONDS = 30


def connect(given: argparse.Namespace) -> smtplib.SMTP:
    """A connection, encrypted as was asked for."""
    context = ssl.create_default_context(cafile=given.ca_file)
    if given.tls:
        return smtplib.SMTP_SSL(given.host, given.port, timeout=TIMEOUT_SECONDS, context=context)
    server = smtplib.SMTP(given.host, given.port, timeout=TIMEOUT_SECONDS)
    if given.starttls:
        server.starttls(context=context)
    return server


def refuses_wrong_password(given: argparse.Namespace, password: str) -> bool:
    """Whether a password that is not the user's keeps us out."""
    with connect(given) as server:
        server.ehlo()
        print(f"offered: {server.esmtp_features.get('auth', 'no AUTH')}")
        try:
            server.login(given.user, f"{password}-but-wrong")
        except smtplib.SMTPAuthenticationError as error:
            print(f"wrong password: {error.smtp_code} {error.smtp_error.decode(errors='replace')}")
            return True
    print("wrong password: taken!")
    return False


def send(given: argparse.Namespace, password: str) -> None:
    """Log in, send a mail."""
    sender = given.sender or given.user
    recipient = given.to or sender
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = recipient
    mail["Subject"] = "Test mail of a user"
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    mail.set_content("This mail was sent by test_smtp_auth.py.\n")
    with connect(given) as server:
        code, answer = server.login(given.user, password)
        print(f"right password: {code} {answer.decode(errors='replace')}")
        server.send_message(mail, sender, [recipient])
        print(f"sent to {recipient}")


def main() -> int:
    """Try both passwords; the exit code."""
    parser = argparse.ArgumentParser(description="Log in at an SMTP server and send a mail.")
    parser.add_argument("host", nargs="?", default="127.0.0.1")
    parser.add_argument("port", nargs="?", type=int, default=2525)
    parser.add_argument("--user", required=True)
    parser.add_argument("--from", dest="sender", help="the sender; by default the user")
    parser.add_argument("--to", help="the recipient; by default the sender")
    parser.add_argument("--starttls", action="store_true", help="encrypt after the greeting")
    parser.add_argument("--tls", action="store_true", help="encrypt from the beginning, as at port 465")
    parser.add_argument("--ca-file", help="whom the certificate is trusted by; by default who the system trusts")
    given = parser.parse_args()
    password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    try:
        if not refuses_wrong_password(given, password):
            return 1
        send(given, password)
    except (OSError, smtplib.SMTPException) as error:
        print(f"not sent: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
