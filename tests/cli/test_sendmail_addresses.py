"""Lists of addresses, RFC 5322 §3.4: what is read, and that nothing is guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.cli.sendmail_addresses import addresses, completed


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a@example.com", ["a@example.com"]),
        ("root", ["root"]),
        ("a@x.org,b@x.org , c@x.org", ["a@x.org", "b@x.org", "c@x.org"]),
        ('Jo Doe <jo@x.org>, "Doe, Jo" <doe@x.org>', ["jo@x.org", "doe@x.org"]),
        ("=?utf-8?q?J=C3=B6?= <jo@x.org>", ["jo@x.org"]),
        ("Jö <jö@x.org>", ["jö@x.org"]),
        ("jo@x.org (Jo (the \\) first))", ["jo@x.org"]),
        ("(a, b@c) jo (x) @ x.org", ["jo@x.org"]),
        ("undisclosed-recipients:;", []),
        ("friends: a@x.org, B <b@x.org>;, c@x.org", ["a@x.org", "b@x.org", "c@x.org"]),
        ("a: b@x.org; c: d@x.org;", ["b@x.org", "d@x.org"]),
        ('"a b"@x.org', ['"a b"@x.org']),
        ('"a,\\"b"@x.org', ['"a,\\"b"@x.org']),
        ("jo@[192.0.2.1]", ["jo@[192.0.2.1]"]),
        ("jo@[IPv6:2001:db8::1]", ["jo@[IPv6:2001:db8::1]"]),
        ("<@relay.org:jo@x.org>", ["jo@x.org"]),
        ("a . b@x.org", ["a.b@x.org"]),
        ("a@x.org,\n b@x.org,\n\tc@x.org\n", ["a@x.org", "b@x.org", "c@x.org"]),
        (", ,a@x.org,", ["a@x.org"]),
        ("", []),
    ],
)
def test_a_list_is_read(value: str, found: list[str]) -> None:
    assert addresses(value) == found


@pytest.mark.parametrize(
    ("value", "whole"),
    [
        ("root", "root@h"),
        (" root (Cron Daemon)\n", " root@h (Cron Daemon)\n"),
        ("a, B <b>,c@x.org,\n\t<d>", "a@h, B <b@h>,c@x.org,\n\t<d@h>"),
        ("friends: a, b@x.org;, c", "friends: a@h, b@x.org;, c@h"),
        ("<@relay.org:jo@x.org>", "<@relay.org:jo@x.org>"),
        ("Cron Daemon", "Cron Daemon"),
        ("=?utf-8?q?a?= <b>, =?utf-8?q?c?=", "=?utf-8?q?a?= <b@h>, =?utf-8?q?c?="),
        ('"a b", j\u00f6', '"a b", j\u00f6'),
        ("undisclosed-recipients:;", "undisclosed-recipients:;"),
        ("a, <b", "a, <b"),
        ("", ""),
    ],
)
def test_a_list_is_completed(value: str, whole: str) -> None:
    assert completed(value, "h") == whole


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("a@x.org b@x.org", "no address"),
        ("a@x.org <b@x.org>", "needs quotes"),
        ("<a@x.org> b@x.org", "behind it"),
        ("<a@x.org", "not closed"),
        ("<a@x.org, b@x.org>", "not closed"),
        ("a@x.org>", "no address"),
        ("<a@x.org><b@x.org>", "no address"),
        ("<>", "nothing between"),
        ("a@x.org)", "cannot stand"),
        ("a@x.org (unfinished", "does not end"),
        ('"unfinished <a@x.org>', "cannot stand"),
        ("a: b@x.org", "does not end"),
        ("a: b: c@x.org;", "no group"),
        (": a@x.org;", "no group"),
        ("a@x.org;", "did not begin"),
        ("jo\\@x.org evil@y.org", "no address"),
    ],
)
def test_a_broken_list_is_refused(value: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        addresses(value)


@given(st.text(alphabet='a@.,;:<>()[]"\\ \n\x00ö', max_size=40))
def test_whatever_comes_is_a_list_or_refused(value: str) -> None:
    try:
        found = addresses(value)
    except ValueError:
        return
    assert all(found)
    assert not any(
        piece in address for address in found for piece in ("<", ">") if '"' not in address and "[" not in address
    )


def test_a_long_list_takes_time_by_its_length() -> None:
    value = ", ".join(f'"{number}" (x) <jo{number}@x.org>' for number in range(20_000))
    assert addresses(value)[-1] == "jo19999@x.org"
