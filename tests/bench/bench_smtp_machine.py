"""What the server machine costs by itself: microseconds of CPU for a mail, milliseconds for a large one.

Run: `python tests/bench/bench_smtp_machine.py`. No sockets, no store: the driver here says yes to everything. The best
of some repetitions counts, since whatever else runs on the machine can only make it slower.
"""

import argparse
import timeit
from collections.abc import Callable, Sequence

from elemta.mail.reply import Reply
from elemta.smtp.events import NEED_DATA, Content, ContentEnd, DataStart, Hello, MailFrom, RcptTo
from elemta.smtp.options import ServerOptions
from elemta.smtp.server import ServerConnection

GREETING = Reply(220, "", "mx.example.com ESMTP")
GO_AHEAD = Reply(354, "", "end with a dot on a line of its own")
OK = Reply(250, "2.1.0", "ok")
TAKEN = Reply(250, "2.0.0", "queued as 0123456789abcdefghijkl")
ANSWERS: dict[type, Reply] = {Hello: OK, MailFrom: OK, RcptTo: OK, DataStart: OK, ContentEnd: TAKEN}
LINE = b"The quick brown fox jumps over the lazy dog, and then it does so once again.\r\n"
CHUNK_OCTETS = 64 * 1024


def drain(connection: ServerConnection) -> int:
    """Take all events, say yes to each. Returns the octets of content that came."""
    octets = 0
    while True:
        event = connection.next_event()
        if event is NEED_DATA:
            connection.data_to_send()
            return octets
        kind = type(event)
        if kind is Content:
            octets += len(event.data)  # type: ignore[union-attr]  # narrowed by kind
        elif kind is DataStart and not event.chunked:  # type: ignore[union-attr]  # narrowed by kind
            connection.reply(GO_AHEAD)
        else:
            connection.reply(ANSWERS[kind])


def ready() -> ServerConnection:
    """A session after EHLO that may go on for as long as the bench wants."""
    connection = ServerConnection(ServerOptions("mx.example.com", max_transactions=10**9))
    connection.greet(GREETING)
    connection.receive_data(b"EHLO client.example.com\r\n")
    drain(connection)
    return connection


def content(octets: int) -> bytes:
    """A mail of about so many octets, with its final dot."""
    header = b"From: <a@example.com>\r\nSubject: bench\r\n\r\n"
    return header + LINE * (octets // len(LINE)) + b".\r\n"


def pieces_of(data: bytes) -> list[bytes]:
    return [data[at : at + CHUNK_OCTETS] for at in range(0, len(data), CHUNK_OCTETS)]


def dialogue(*steps: bytes) -> Callable[[], None]:
    """What the client sends, each step after the replies to the one before."""
    connection = ready()

    def run() -> None:
        for step in steps:
            connection.receive_data(step)
            drain(connection)

    return run


def known_dialogue(*steps: tuple[bytes, tuple[Reply | None, ...]]) -> Callable[[], None]:
    """Like `dialogue`, without a driver that looks at the events: replies as they are due, None for an event that wants
    none. What is left is the machine."""
    connection = ready()

    def run() -> None:
        for step, replies in steps:
            connection.receive_data(step)
            for reply in replies:
                connection.next_event()
                if reply is not None:
                    connection.reply(reply)
            connection.next_event()
            connection.data_to_send()

    return run


def session() -> None:
    """Greeting, EHLO, QUIT: what a connection costs beside its mails."""
    connection = ready()
    connection.receive_data(b"QUIT\r\n")
    connection.next_event()
    connection.data_to_send()


MAIL = b"MAIL FROM:<sender@client.example.com>\r\n"
MAIL_WITH_SIZE = b"MAIL FROM:<sender@client.example.com> SIZE=4096 BODY=8BITMIME\r\n"
MAIL_SLOW = b'MAIL FROM:<"the sender"@client.example.com> SIZE=4096 RET=HDRS ENVID=abc+2B1\r\n'
RCPT = b"RCPT TO:<recipient@mx.example.com>\r\n"
DATA = b"DATA\r\n"
SMALL = content(4096)
LARGE = content(1024 * 1024)
DOTTED = LARGE.replace(b"\r\nThe", b"\r\n..The", 2000)

CASES: dict[str, tuple[str, Callable[[], Callable[[], None]]]] = {
    "session without a mail": ("µs", lambda: session),
    "mail of 4 KiB, machine alone": (
        "µs",
        lambda: known_dialogue((MAIL, (OK,)), (RCPT, (OK,)), (DATA, (GO_AHEAD,)), (SMALL, (None, TAKEN))),
    ),
    "mail of 4 KiB, step by step": ("µs", lambda: dialogue(MAIL, RCPT, DATA, SMALL)),
    "mail of 4 KiB, pipelined": ("µs", lambda: dialogue(MAIL_WITH_SIZE + RCPT + DATA, SMALL)),
    "mail of 4 KiB, slow forms": ("µs", lambda: dialogue(MAIL_SLOW, RCPT[:-2] + b" NOTIFY=NEVER\r\n", DATA, SMALL)),
    "mail of 4 KiB, BDAT": (
        "µs",
        lambda: dialogue(MAIL + RCPT + b"BDAT %d LAST\r\n" % (len(SMALL) - 3) + SMALL[:-3]),
    ),
    "100 recipients, pipelined": ("µs", lambda: dialogue(MAIL, RCPT * 100, DATA, SMALL)),
    "mail of 1 MiB in 64 KiB": ("ms", lambda: dialogue(MAIL, RCPT, DATA, *pieces_of(LARGE))),
    "mail of 1 MiB, stuffed dots": ("ms", lambda: dialogue(MAIL, RCPT, DATA, *pieces_of(DOTTED))),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=100, help="repetitions of each case; the best counts")
    parser.add_argument("--seconds", type=float, default=0.02, help="length of one repetition")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    chosen = parser.parse_args(arguments)
    for name, (unit, prepare) in CASES.items():
        if chosen.only not in name:
            continue
        timer = timeit.Timer(prepare())
        number = max(1, int(chosen.seconds / timer.timeit(1)))
        best = min(timer.repeat(chosen.repeat, number)) / number
        print(f"{name:32}{best * (1e6 if unit == 'µs' else 1e3):10.2f} {unit}")


if __name__ == "__main__":
    main()
