"""A mail over its limit is read to its end, unless that end is too far away."""

import pytest

from elemta.mail.reply import Reply
from elemta.smtp.content import LEAST_SURPLUS_OCTETS, MAX_SURPLUS_FACTOR, ContentCheck
from elemta.smtp.events import Closing, ContentRefused
from elemta.smtp.options import ServerOptions
from elemta.smtp.refusals import BARE_NEWLINE, TOO_LARGE
from tests.smtp.server_driver import Driver

MAX_SIZE = 1000
MIB = 1024 * 1024
HELLO = b"EHLO client\r\n"
ENVELOPE = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@mx.example.com>\r\n"
LINES = (b"x" * 62 + b"\r\n") * (MIB // 64)


def begun(last_command: bytes, max_size: int = MAX_SIZE) -> Driver:
    driver = Driver(ServerOptions("mx.example.com", max_size=max_size))
    driver.feed_all((HELLO, ENVELOPE, last_command))
    return driver


def mib_until_closed(driver: Driver, most: int) -> int:
    for number in range(1, most + 1):
        driver.feed(LINES)
        if driver.closing is not None:
            return number
    raise AssertionError(f"still read after {most} MiB")


@pytest.mark.parametrize("command", [b"DATA\r\n", b"BDAT 100000000000 LAST\r\n"])
@pytest.mark.parametrize(
    ("begin", "reply", "cause"),
    [
        (b"x\r\n", TOO_LARGE, "endless mail"),
        (b"x\0\r\n", TOO_LARGE, "endless mail"),
        (b"\n\r\n", BARE_NEWLINE, "bare newline"),
    ],
)
def test_an_endless_mail_is_refused_and_closes(command: bytes, begin: bytes, reply: Reply, cause: str) -> None:
    driver = begun(command)
    assert driver.feed(begin) == b""
    assert mib_until_closed(driver, 102) == 101
    assert driver.sent.endswith(reply.render())
    assert driver.events[-2:] == [ContentRefused(reply), Closing(reply, cause)]


def test_an_end_within_the_bound_is_waited_for() -> None:
    driver = begun(b"DATA\r\n")
    for _ in range(LEAST_SURPLUS_OCTETS // MIB):
        assert driver.feed(LINES) == b""
    assert driver.feed(b".\r\nNOOP\r\n") == TOO_LARGE.render() + b"250 2.0.0 Nothing done\r\n"
    assert driver.closing is None


def test_how_the_octets_are_cut_changes_nothing() -> None:
    driver = begun(b"DATA\r\n")
    driver.feed(LINES * (LEAST_SURPLUS_OCTETS // MIB + 1) + b".\r\n")
    assert driver.closing == Closing(TOO_LARGE, "endless mail")


def test_what_has_no_limit_has_no_end() -> None:
    driver = begun(b"DATA\r\n", max_size=0)
    for _ in range(102):
        driver.feed(LINES)
        driver.events.pop()  # the content, which a driver does not keep either
    driver.feed(b".\r\n")
    assert driver.sent.endswith(b"queued\r\n")


@pytest.mark.parametrize("max_size", [20 * MIB, 200 * MIB])
def test_a_large_limit_leaves_more_room(max_size: int) -> None:
    check = ContentCheck(max_size, normalize=False)
    check.size = max_size + MAX_SURPLUS_FACTOR * max_size
    assert not check.is_endless
    check.size += 1
    assert check.is_endless
