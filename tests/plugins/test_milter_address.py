"""Where a milter listens: what is read, what is refused with which advice."""

import pytest

from elemta.plugins.milter.address import MilterAddress, parse_milter_address


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("unix:/run/opendkim/sock", MilterAddress(path="/run/opendkim/sock")),
        ("local:/run/opendkim/sock", MilterAddress(path="/run/opendkim/sock")),
        ("inet:8891@127.0.0.1", MilterAddress("127.0.0.1", 8891)),
        ("inet:8891@Localhost", MilterAddress("localhost", 8891)),
        ("inet6:8891@::1", MilterAddress("::1", 8891)),
        ("inet6:8891@[::1]", MilterAddress("::1", 8891)),
        ("127.0.0.1:8891", MilterAddress("127.0.0.1", 8891)),
        ("[::1]:8891", MilterAddress("::1", 8891)),
        ("inet:milter.example.com:8891", MilterAddress("milter.example.com", 8891)),
        ("milter.example.com:8891", MilterAddress("milter.example.com", 8891)),
    ],
)
def test_every_way_of_writing_is_read(text: str, read: MilterAddress) -> None:
    assert parse_milter_address(text) == read
    assert parse_milter_address(str(read)) == read


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "neither a path nor a port"),
        ("8891", "neither a path nor a port"),
        (":8891", "neither a path nor a port"),
        ("inet:8891", "inet:8891@127.0.0.1"),
        ("unix:run/sock", 'begins with "/"'),
        ("unix:/" + "x" * 107, "107 octets"),
        ("inet:0@127.0.0.1", "from 1 to 65535"),
        ("inet:65536@127.0.0.1", "from 1 to 65535"),
        ("inet:x@127.0.0.1", "from 1 to 65535"),
        ("127.0.0.1:٣", "from 1 to 65535"),
        ("::1:8891", "[::1]:8891"),
        ("inet:8891@no host", "letters, digits"),
    ],
)
def test_what_is_no_address_is_refused_with_advice(text: str, advice: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_milter_address(text)
    assert advice in str(refused.value)
