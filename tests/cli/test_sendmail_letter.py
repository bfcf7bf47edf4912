"""What becomes of a mail that a program wrote."""

import pytest

from elemta.cli.sendmail_letter import MAX_LINE_OCTETS, MAX_RECIPIENTS, Author, Letter, write_letter
from elemta.cli.sendmail_options import read_options
from elemta.cli.sendmail_trouble import SysExit, Trouble
from elemta.mail.headers import MAX_HEADER_FIELDS
from elemta.smtp.stuffing import DotStuffer

AUTHOR = Author("jo", "host.example", at=0.0, id="unique")
DATE = b"Date: Thu, 1 Jan 1970 00:00:00 +0000\r\n"
ID = b"Message-ID: <unique@host.example>\r\n"


def written(octets: bytes, *words: str) -> Letter:
    return write_letter(octets, read_options(words), author=AUTHOR)


def recipients(letter: Letter) -> list[str]:
    return [str(recipient.address) for recipient in letter.envelope.recipients]


def refused(octets: bytes, *words: str) -> Trouble:
    with pytest.raises(Trouble) as trouble:
        written(octets, *words)
    return trouble.value


def test_what_is_missing_is_added_and_lines_end_with_crlf() -> None:
    letter = written(b"Subject: hi\n\nhello\n", "you@x.org")
    assert letter.content == b"Subject: hi\r\nFrom: jo@host.example\r\n" + DATE + ID + b"\r\nhello\r\n"
    assert (letter.envelope.sender, recipients(letter)) == ("jo@host.example", ["you@x.org"])
    assert not letter.eight_bit


def test_what_is_there_is_kept() -> None:
    whole = b"from: a@x.org\r\nDATE: yesterday\r\nMessage-Id: <1@x>\r\nTo: x@x.org\r\n\r\nhello\r\n"
    assert written(whole, "you@x.org").content == whole


@pytest.mark.parametrize("octets", [b"hello\nworld", b"hello: world is\nnot a field?\n", b"", b"\n", b"\nhello\n"])
def test_a_mail_without_a_header_is_all_body(octets: bytes) -> None:
    content = written(octets, "you@x.org").content
    header, _, body = content.partition(b"\r\n\r\n")
    assert header.endswith((DATE + ID).removesuffix(b"\r\n"))
    assert body.replace(b"\r\n", b"\n").strip() in octets


def test_recipients_of_the_header_are_taken_and_blind_copies_removed() -> None:
    octets = b"To: a@x.org,\n B <b@x.org>\nCC: a@x.org\nBcc: secret@x.org,\n other@x.org\n"
    octets += b"Return-Path: <z@x.org>\nSubject: s\n\nx\n"
    letter = written(octets, "-t", "-i", "first@x.org")
    assert recipients(letter) == ["first@x.org", "a@x.org", "b@x.org", "secret@x.org", "other@x.org"]
    assert b"secret" not in letter.content
    assert b"other@" not in letter.content
    assert b"z@x.org" not in letter.content
    assert b"To: a@x.org,\r\n B <b@x.org>\r\nCC: a@x.org\r\nSubject: s\r\n" in letter.content


def test_without_t_the_header_names_nobody_and_bcc_is_removed_all_the_same() -> None:
    letter = written(b"To: a@x.org\nBcc: secret@x.org\n\nx\n", "you@x.org")
    assert recipients(letter) == ["you@x.org"]
    assert b"secret" not in letter.content


def test_who_sends_again_names_new_recipients() -> None:
    octets = b"Resent-To: new@x.org\nResent-Bcc: dark@x.org\nTo: old@x.org\nBcc: older@x.org\n\nx\n"
    letter = written(octets, "-t")
    assert recipients(letter) == ["new@x.org", "dark@x.org"]
    assert b"dark" not in letter.content


@pytest.mark.parametrize(
    ("words", "octets", "body"),
    [
        (["-i"], b"\na\n.\nb\n", b"a\r\n.\r\nb\r\n"),
        (["-oi"], b"\na\n.\nb\n", b"a\r\n.\r\nb\r\n"),
        ([], b"\na\n.\nb\n", b"a\r\n"),
        ([], b"\na\n.", b"a\r\n"),
        ([], b"\n.\nb\n", b""),
        ([], b"\n..\n.b\n", b"..\r\n.b\r\n"),
    ],
)
def test_a_dot_ends_the_mail_unless_told_otherwise(words: list[str], octets: bytes, body: bytes) -> None:
    assert written(octets, *words, "you@x.org").content.partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize("octets", [b"a: b\r\rc\n\rd\r", b"\r\n\r\n\r", b"x\ry\r\n", b"\n\n\r\n"])
def test_no_line_end_is_left_that_smtp_forbids(octets: bytes) -> None:
    letter = written(octets, "-i", "you@x.org")
    stuffer = DotStuffer()
    assert (stuffer.feed(letter.content) + stuffer.end()).endswith(b"\r\n.\r\n")


def test_a_carriage_return_does_not_begin_a_field() -> None:
    letter = written(b"To: a@x.org\nSubject: s\rBcc: victim@x.org\r\r\n\nbody\r.\rmore\n", "-t")
    assert recipients(letter) == ["a@x.org"]
    assert b"\r\nSubject: s Bcc: victim@x.org\r\nFrom: " in letter.content
    assert letter.content.endswith(b"\r\n\r\nbody . more\r\n")


def test_nul_is_left_out() -> None:
    letter = written(b"T\0o: a@x.org\nSubject: s\0t\n\nx\0y\n", "-t")
    assert recipients(letter) == ["a@x.org"]
    assert letter.content.startswith(b"To: a@x.org\r\nSubject: st\r\n")
    assert letter.content.endswith(b"\r\n\r\nxy\r\n")


@pytest.mark.parametrize("extra", range(-1, 3))
@pytest.mark.parametrize("word", [b"x", b"\xc3\xb6", b"\xf0\x9f\x93\xa7", b"\x80", b"word ", b"a" * 990 + b" b"])
def test_no_line_is_longer_than_smtp_allows(word: bytes, extra: int) -> None:
    long = (word * 3000)[: 3 * MAX_LINE_OCTETS + extra]
    content = written(b"Subject: %b\n\n%b\n" % (long, long), "you@x.org").content
    lines = content.split(b"\r\n")
    assert max(map(len, lines)) <= MAX_LINE_OCTETS
    header, _, body = content.partition(b"\r\n\r\n")
    spaces = (b" ", b"")
    assert body.replace(b"\r\n", b"").replace(*spaces) == long.replace(*spaces)
    folded = header.partition(b"\r\nFrom: ")[0]
    assert folded.replace(b"\r\n ", b" ").replace(*spaces) == b"Subject:" + long.replace(*spaces)


def test_a_long_line_is_cut_before_a_space_and_within_no_character() -> None:
    content = written(b"\n" + b"word " * 300 + b"\n" + "\u00f6".encode() * 700 + b"\n", "you@x.org").content
    first, second, third, fourth = content.partition(b"\r\n\r\n")[2].split(b"\r\n")[:-1]
    assert (first + second, second[:5]) == (b"word " * 300, b" word")
    assert third.decode() + fourth.decode() == "\u00f6" * 498 + " " + "\u00f6" * 202


def test_a_line_that_fits_is_left_as_it_is() -> None:
    line = b"x" * MAX_LINE_OCTETS
    assert written(b"\n" + line + b"\n", "you@x.org").content.endswith(b"\r\n\r\n" + line + b"\r\n")


def test_the_mail_of_cron() -> None:
    octets = b"From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@host> date\nContent-Type: text/plain\n\nx\n"
    for words in ("-FCronDaemon -i -B8BITMIME -oem root", "-i -FCronDaemon -B8BITMIME -oem -t"):
        letter = written(octets, *words.split())
        assert recipients(letter) == ["root@host.example"]
        assert letter.content.startswith(
            b"From: root@host.example (Cron Daemon)\r\nTo: root@host.example\r\nSubject: Cron <root@host> date\r\n"
        )


def test_the_line_of_a_mailbox_file_is_dropped() -> None:
    assert written(b"From jo@x.org Thu Jan  1 1970\nSubject: s\n\nx\n", "you@x.org").content.startswith(b"Subject: s")


@pytest.mark.parametrize(
    ("words", "sender", "field"),
    [
        (["-f", "me@x.org"], "me@x.org", b"From: me@x.org"),
        (["-f", "<me@x.org>"], "me@x.org", b"From: me@x.org"),
        (["-f", "Me <me@x.org>"], "me@x.org", b"From: me@x.org"),
        (["-f", "root"], "root@host.example", b"From: root@host.example"),
        (["-f", ""], "", b"From: jo@host.example"),
        (["-f", "<>"], "", b"From: jo@host.example"),
        (["-F", "Cron Daemon"], "jo@host.example", b'From: "Cron Daemon" <jo@host.example>'),
        (["-F", 'a"b\\c\r\nd'], "jo@host.example", b'From: "a\\"b\\\\cd" <jo@host.example>'),
        (["-F", "Jö"], "jo@host.example", b"From: =?utf-8?b?SsO2?= <jo@host.example>"),
    ],
)
def test_who_sends(words: list[str], sender: str, field: bytes) -> None:
    letter = written(b"\nx\n", *words, "you@x.org")
    assert letter.envelope.sender == sender
    assert field in letter.content.split(b"\r\n")


@pytest.mark.parametrize(("user", "address"), [("AD\\jo", '"AD\\\\jo"@host.example'), ("jo$", "jo$@host.example")])
def test_a_user_whose_name_is_no_word(user: str, address: str) -> None:
    author = Author(user, "host.example", at=0.0, id="unique")
    letter = write_letter(b"\nx\n", read_options(["you@x.org"]), author=author)
    assert letter.envelope.sender == address
    assert f"From: {address}\r\n".encode() in letter.content


def test_a_long_name_is_folded_into_words_that_fit() -> None:
    content = written(b"\nx\n", "-F", "ö" * 200, "you@x.org").content
    assert max(map(len, content.split(b"\r\n"))) <= 78


def test_a_recipient_without_a_domain_is_of_this_host() -> None:
    assert recipients(written(b"\nx\n", "root", "you@x.org,Me <me@x.org>")) == [
        "root@host.example",
        "you@x.org",
        "me@x.org",
    ]


def test_what_is_asked_of_reports_goes_into_the_envelope() -> None:
    envelope = written(b"\nx\n", "-N", "success", "-R", "hdrs", "-V", "id", "-B", "8BITMIME", "you@x.org").envelope
    (recipient,) = envelope.recipients
    assert (str(recipient.notify), recipient.original) == ("Notify.SUCCESS", "rfc822;you@x.org")
    assert (str(envelope.ret), envelope.envid, envelope.body.value) == ("Ret.HEADERS", "id", "8BITMIME")


@pytest.mark.parametrize(
    ("octets", "eight_bit", "unicode"),
    [
        (b"Subject: s\n\nx\n", False, False),
        ("Subject: s\n\nö\n".encode(), True, False),
        ("Subject: ö\n\nx\n".encode(), True, True),
        ("Subject: ö\n\nx\n".encode("latin-1"), True, False),
    ],
)
def test_what_is_not_ascii_is_declared(octets: bytes, eight_bit: bool, unicode: bool) -> None:
    letter = written(octets, "you@x.org")
    assert (letter.eight_bit, letter.unicode_header, letter.envelope.smtputf8) == (eight_bit, unicode, unicode)


@pytest.mark.parametrize(
    ("octets", "words", "status", "says"),
    [
        (b"\nx\n", [], SysExit.USAGE, "give -t"),
        (b"Subject: s\n\nx\n", ["-t"], SysExit.USAGE, "neither the header"),
        (b"To: undisclosed-recipients:;\n\nx\n", ["-t"], SysExit.USAGE, "neither the header"),
        (b"To: a@x.org <b@x.org>\n\nx\n", ["-t"], SysExit.DATAERR, "needs quotes"),
        (b"To: a@b@c\n\nx\n", ["-t"], SysExit.DATAERR, "no address"),
        (b"To: \xff@x.org\n\nx\n", ["-t"], SysExit.DATAERR, "UTF-8"),
        (b"\nx\n", ["a..b@x.org"], SysExit.USAGE, "no address"),
        (b"\nx\n", ["you@x.org", "-fevil@x.org"], SysExit.USAGE, "options stand before"),
        (b"\nx\n", ["-f", "a b", "you@x.org"], SysExit.USAGE, "no address"),
        (b"\nx\n", ["-f", "a@x.org,b@x.org", "you@x.org"], SysExit.USAGE, "one sender"),
        (b"\nx\n", ["-f", "a@x.org\nRCPT TO:<b@x.org>", "you@x.org"], SysExit.USAGE, "cannot be read"),
        (b"a: b\n" * (MAX_HEADER_FIELDS + 1), ["you@x.org"], SysExit.DATAERR, "too large"),
        (b"a: " + b"b" * 300_000, ["you@x.org"], SysExit.DATAERR, "too large"),
    ],
)
def test_what_cannot_be_sent(octets: bytes, words: list[str], status: SysExit, says: str) -> None:
    trouble = refused(octets, *words)
    assert trouble.status is status
    assert says in trouble.says


def test_recipients_are_bounded() -> None:
    many = [f"a{number}@x.org" for number in range(MAX_RECIPIENTS)]
    assert len(recipients(written(b"\nx\n", *many))) == MAX_RECIPIENTS
    assert refused(b"\nx\n", *many, "one@x.org").status is SysExit.DATAERR
