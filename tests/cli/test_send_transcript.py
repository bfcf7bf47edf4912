"""What a transcript shows: every line once, printable, no secret among them."""

import base64

from hypothesis import given
from hypothesis import strategies as st

from elemta.cli.transcript import Line, Side, Transcript

PASSWORD = base64.b64encode(b"\0jo\0correct horse").decode()

#: What each side says in turn.
DIALOGUE: tuple[tuple[Side, str], ...] = (
    (Side.SERVER, "220 mail.example.com\r\n"),
    (Side.CLIENT, "EHLO me\r\n"),
    (Side.SERVER, "250-mail.example.com\r\n250 AUTH PLAIN LOGIN\r\n"),
    (Side.CLIENT, f"AUTH PLAIN {PASSWORD}\r\n"),
    (Side.SERVER, "535 5.7.8 no\r\n"),
    (Side.CLIENT, "auth login\r\n"),
    (Side.SERVER, "334 VXNlcm5hbWU6\r\n"),
    (Side.CLIENT, "c2VjcmV0IHVzZXI=\r\n"),
    (Side.SERVER, "334 UGFzc3dvcmQ6\r\n"),
    (Side.CLIENT, "c2VjcmV0IHdvcmQ=\r\n"),
    (Side.SERVER, "235 2.7.0 welcome\r\n"),
    (Side.CLIENT, "MAIL FROM:<a@x.org>\r\nRCPT TO:<b@x.org>\r\nDATA\r\n"),
    (Side.SERVER, "250 ok\r\n250 ok\r\n354 go on\r\n"),
    (Side.CLIENT, "Subject: hi\r\n\r\nAUTH is a word\r\n..\r\n.\r\n"),
    (Side.SERVER, "250 taken\r\n"),
    (Side.CLIENT, "QUIT\r\n"),
    (Side.SERVER, "221 bye\r\n"),
)

SHOWN = """\
< 220 mail.example.com
> EHLO me
< 250-mail.example.com
< 250 AUTH PLAIN LOGIN
> AUTH PLAIN <hidden>
< 535 5.7.8 no
> auth login
< 334 <hidden>
> <hidden>
< 334 <hidden>
> <hidden>
< 235 2.7.0 welcome
> MAIL FROM:<a@x.org>
> RCPT TO:<b@x.org>
> DATA
< 250 ok
< 250 ok
< 354 go on
> … 38 octets, the final dot among them
< 250 taken
> QUIT
< 221 bye
"""


def shown(pieces: int, *, content: bool = False) -> str:
    """The transcript of the dialogue, in pieces of so many octets."""
    lines: list[Line] = []
    transcript = Transcript(lines.append, content=content)
    for side, text in DIALOGUE:
        octets = text.encode()
        for at in range(0, len(octets), pieces):
            (transcript.sent if side is Side.CLIENT else transcript.heard)(octets[at : at + pieces])
    return "".join(f"{line}\n" for line in lines)


@given(st.integers(1, 200))
def test_a_dialogue_however_it_is_cut(pieces: int) -> None:
    assert shown(pieces) == SHOWN


@given(st.integers(1, 200))
def test_the_content_is_shown_where_it_is_wanted(pieces: int) -> None:
    lines = "> Subject: hi\n> \n> AUTH is a word\n> ..\n> .\n"
    assert shown(pieces, content=True) == SHOWN.replace("> … 38 octets, the final dot among them\n", lines)


def test_a_cancelled_login_is_no_secret() -> None:
    lines: list[str] = []
    transcript = Transcript(lambda line: lines.append(str(line)))
    transcript.sent(b"AUTH SCRAM-SHA-256 biwsbj1qbw==\r\n")
    transcript.heard(b"334 cj1yYW5kb20=\r\n")
    transcript.sent(b"*\r\n")
    transcript.heard(b"501 5.7.0 cancelled\r\n")
    transcript.sent(b"NOOP\r\n")
    assert lines == ["> AUTH SCRAM-SHA-256 <hidden>", "< 334 <hidden>", "> *", "< 501 5.7.0 cancelled", "> NOOP"]


def test_a_new_connection_begins_anew() -> None:
    lines: list[str] = []
    transcript = Transcript(lambda line: lines.append(str(line)))
    transcript.sent(b"AUTH LOGIN\r\nhalf")
    transcript.heard(b"334 half")
    transcript.connected("connected to 192.0.2.1:25")
    transcript.heard(b"220 mail\r\n")
    transcript.sent(b"EHLO me\r\n")
    assert lines == ["> AUTH LOGIN", "= connected to 192.0.2.1:25", "< 220 mail", "> EHLO me"]


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=60))))
def test_whatever_comes_is_printable(said: list[tuple[bool, bytes]]) -> None:
    lines: list[Line] = []
    transcript = Transcript(lines.append, content=True)
    for by_client, octets in said:
        (transcript.sent if by_client else transcript.heard)(octets)
    assert all(line.text.isprintable() for line in lines)
