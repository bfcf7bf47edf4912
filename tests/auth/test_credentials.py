"""The cache of passwords that were right: what it remembers, for how long, how much."""

from elemta.auth.credentials import CredentialCache

STORED = "$argon2id$…"


def remembered(seconds: float = 300.0) -> CredentialCache:
    cache = CredentialCache(seconds)
    cache.remember("alice", STORED, b"secret", now=1000.0)
    return cache


def test_what_was_right_is_right_for_a_while() -> None:
    cache = remembered()
    assert cache.knows("alice", STORED, b"secret", now=1000.0)
    assert cache.knows("alice", STORED, b"secret", now=1299.9)
    assert not cache.knows("alice", STORED, b"secret", now=1300.0), "being used makes nothing last longer"


def test_everything_must_be_the_same() -> None:
    cache = remembered()
    assert not cache.knows("alice", STORED, b"Secret", now=1000.0)
    assert not cache.knows("bob", STORED, b"secret", now=1000.0)
    assert not cache.knows("alice", "$argon2id$another", b"secret", now=1000.0), "the password was changed"
    assert not cache.knows("alice", "", b"secret", now=1000.0), "and taken away"
    assert not cache.knows("alices", STORED[1:], b"ecret", now=1000.0), "parts do not run into each other"
    assert not cache.knows("", "alice" + STORED, b"secret", now=1000.0)


def test_nothing_is_remembered_for_no_time() -> None:
    cache = remembered(0.0)
    assert len(cache) == 0
    assert not cache.knows("alice", STORED, b"secret", now=1000.0)


def test_it_is_bounded_and_forgets_the_oldest() -> None:
    cache = CredentialCache(300.0, entries=3)
    for number in range(5):
        cache.remember(f"user{number}", STORED, b"secret", now=float(number))
        assert len(cache) <= 3
    known = [number for number in range(5) if cache.knows(f"user{number}", STORED, b"secret", now=5.0)]
    assert known == [2, 3, 4]


def test_a_new_check_counts_anew() -> None:
    cache = CredentialCache(300.0, entries=2)
    cache.remember("alice", STORED, b"secret", now=0.0)
    cache.remember("bob", STORED, b"secret", now=100.0)
    cache.remember("alice", STORED, b"secret", now=200.0)
    assert len(cache) == 2
    assert not cache.knows("bob", STORED, b"secret", now=450.0)
    assert cache.knows("alice", STORED, b"secret", now=450.0)
    assert len(cache) == 1, "what is over leaves by itself"


def test_each_process_has_a_key_of_its_own_and_shows_nothing() -> None:
    assert vars(remembered())["_known"].keys().isdisjoint(vars(remembered())["_known"].keys())
    assert "secret" not in str(vars(remembered()))
