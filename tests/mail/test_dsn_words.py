"""What people read when a mail did not arrive."""

import pytest
from attrs import evolve

from elemta.mail.address import Address
from elemta.mail.dsn import Action, RecipientReport
from elemta.mail.dsn_words import MAX_SUBJECT_OCTETS, MailWords, subject_for, text_for
from elemta.mail.outcome import NO_PEER, Peer
from elemta.mail.reply import Reply

MAIL = MailWords("Grüße an alle", "M" * 22, 1_700_000_000.0, "mail.example.com")
BOB = RecipientReport(
    address=Address("bob", "example.org"),
    action=Action.FAILED,
    status="5.1.1",
    reply=Reply(550, "5.1.1", "No such user"),
    peer=Peer("mx.example.org", "192.0.2.7"),
)


def about(entry: RecipientReport) -> str:
    """The words about one recipient, on one line."""
    text = text_for(entry.action, MAIL, recipients=(entry,))
    return " ".join(text[text.index("<bob@") :].split()).removesuffix(
        " The parts that follow hold the same for programs, then your mail or the beginning of it."
    )


def test_a_failure_as_it_is_read() -> None:
    assert text_for(Action.FAILED, MAIL, recipients=(BOB,)) == (
        "This is the mail server mail.example.com.\n"
        "\n"
        "Your mail could not be delivered to the recipients below. It will not be\n"
        "tried again for them; recipients that are not named here are not concerned.\n"
        "\n"
        "    Subject: Grüße an alle\n"
        "    Received: Tue, 14 Nov 2023 22:13:20 +0000\n"
        "    Id: MMMMMMMMMMMMMMMMMMMMMM\n"
        "\n"
        "<bob@example.org>\n"
        "    The last word about it, from mx.example.org [192.0.2.7]:\n"
        "        550 5.1.1 No such user\n"
        "    What you can do: check the address: it may be misspelt, or exist no more.\n"
        "\n"
        "The parts that follow hold the same for programs, then your mail or the\n"
        "beginning of it.\n"
    )


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("5.1.1", "check the address"),
        ("5.1.2", "check the address"),
        ("5.1.8", "your own address"),
        ("5.1.7", "your own address"),
        ("5.2.2", "mailbox is full"),
        ("4.2.2", "mailbox is full"),
        ("5.2.3", "too large"),
        ("5.3.4", "too large"),
        ("5.4.6", "round in circles"),
        ("5.4.7", "time for delivering this mail is over"),
        ("5.6.3", "another form"),
        ("5.7.1", "a rule of the recipient's side"),
        ("5.0.0", "recipient's postmaster"),
        ("5.4.1", "recipient's postmaster"),
    ],
)
def test_the_remedy_fits_the_status(status: str, words: str) -> None:
    remedy = about(evolve(BOB, status=status)).partition("What you can do: ")[2]
    assert words in remedy


def test_who_may_have_it_is_not_told_to_send_again() -> None:
    words = about(evolve(BOB, status="5.4.7", uncertain=True))
    assert "it may have arrived, even more than once" in words
    assert "What you can do" not in words


def test_what_we_found_ourselves_is_not_put_into_another_mouth() -> None:
    assert about(evolve(BOB, peer=NO_PEER)).startswith("<bob@example.org> This server says: 550 5.1.1 No such user")


@pytest.mark.parametrize(
    ("peer", "shown"),
    [(Peer("mx.example.org"), "from mx.example.org:"), (Peer("", "2001:db8::1"), "from [IPv6:2001:db8::1]:")],
)
def test_the_speaker_is_named_as_far_as_known(peer: Peer, shown: str) -> None:
    assert shown in about(evolve(BOB, peer=peer))


@pytest.mark.parametrize("until", [None, 1_700_172_800.0])
def test_a_delay_says_until_when_if_it_is_known(until: float | None) -> None:
    words = about(evolve(BOB, action=Action.DELAYED, status="4.2.1", will_retry_until=until))
    assert ("Tried until: Thu, 16 Nov 2023 22:13:20 +0000" in words) is (until is not None)
    assert "What you can do" not in words


def test_each_action_has_its_own_words() -> None:
    subjects = {subject_for(action) for action in Action}
    texts = {text_for(action, MAIL, recipients=(evolve(BOB, action=action),)) for action in Action}
    assert len(subjects) == len(texts) == len(Action)
    assert all(subject.isascii() and subject.isprintable() for subject in subjects)


def test_a_mail_without_a_subject_shows_none() -> None:
    assert "Subject" not in text_for(Action.FAILED, evolve(MAIL, subject=""), recipients=(BOB,))


def test_hostile_words_stay_in_their_place() -> None:
    evil = evolve(BOB, reply=Reply(550, "", ("\r\n.\r\nx\x1b[31m", "y" * 5000)))
    text = text_for(Action.FAILED, evolve(MAIL, subject="a\r\nb" + "c" * 5000), recipients=(evil,))
    assert all(line == "" or line.isprintable() for line in text.split("\n"))
    assert max(map(len, text.split("\n"))) <= 500
    assert f"    Subject: a\n    b{'c' * (MAX_SUBJECT_OCTETS - 6)}...\n" in text
