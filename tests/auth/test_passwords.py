"""Passwords against what other systems stored, bounds, no password in the clear, no stored text that is a password.

Recorded: each stored text of `RECORDED` was written by the named program for the password `correct horse ü`.
"""

import base64
import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import argon2.low_level
import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elemta.auth import (
    passwords_argon2,
    passwords_bcrypt,
    passwords_pbkdf2,
    passwords_shacrypt,
)
from elemta.auth.passwords import MAX_STORED_CHARACTERS, PasswordHasher, Verdict, read_form
from elemta.auth.passwords_form import UnknownForm
from elemta.auth.sasl.preparation import MAX_PASSWORD_OCTETS, Unfit

PASSWORD = "correct horse \u00fc"
HASHER = PasswordHasher()
#: With a salt of its own at each start, two processes of one run would not agree on the names of the tests.
OWN = PasswordHasher(chance=lambda octets: b"s" * octets).hash(PASSWORD)

RECORDED = {
    # Dovecot 2.3.19, doveadm pw -s SCHEME
    "SSHA": "{SSHA}D3BiSOl6PGi5GLrxiZZ6slpJnR/yi7Oi",
    "SSHA256": "{SSHA256}bs2qXuonjwlIucjQn9jgr206k7XSeTVZEcMb39JYiEqlBxPc",
    "SSHA512": "{SSHA512}MavlJaKVy3C8deMyerey2dMIbXSZkWB8G8XmmWJGRMaxPNUMXXbEW7mGd5/DAs0hzJKOgvzJxUv5zi9Wsypb2S8Cesc=",
    "SHA": "{SHA}BamUwd4BOl+1jAtu97w165yA/8g=",
    "SHA256": "{SHA256}otv7W7LaxrIb1p2WRi16zkOLddXNfbCCJpS/jRbNOzM=",
    "SHA512": "{SHA512}FFopYaUmkAg7thSf0kj7BuPnnjKlduscTLmEVWUhZ3YeWHup6UOw6KSJ/Y5dsIklFsjRC4GCnwCJviGRwrNKCA==",
    "BLF-CRYPT": "{BLF-CRYPT}$2y$05$D7dOOD1XiavSwpgo9KjTReGx5y5Edacp0KzGw6/Mmo6MBQN0VC0Hq",
    "CRYPT": "{CRYPT}$2y$05$qxy1V0yQ2OurVfpiNul8IOZDR9piFRosXWdCdFePXd74wOwk0vp6y",
    "SHA256-CRYPT": "{SHA256-CRYPT}$5$WkMfDmX1QBpD/hSv$3sK0JhJHRdpzAOH5XnoTZTgN9qjncXCVeh.QhFvIKm5",
    "SHA512-CRYPT": (
        "{SHA512-CRYPT}$6$0.z5imjU5O2t43zq$"
        "z.IpiPLZrPGo1/xdQOeaFXKoG8jXveg0J3n22Dtklc4IagPOtUh4w8.ajsS/HrK4mdC561VKyyco3L8DU6mfP/"
    ),
    "SHA512-CRYPT -r 20000": (
        "{SHA512-CRYPT}$6$rounds=20000$/ihcNYWs4GB6ugQN$"
        "T/wYjzNSL5bx71sSr/n4YFtSF/OhvAPcNkrJAWumJLY.CxHMINBnvOkzL20fgB88vb6Ko8NtJfmboNrWE34ng0"
    ),
    "PBKDF2": "{PBKDF2}$1$/Y15mLazDvOKUgHy$5000$49406f5b90cd152ecef9aa66336264371324ea83",
    "ARGON2I": (
        "{ARGON2I}$argon2i$v=19$m=32768,t=4,p=1$Aw8g+S8lAdrdo6zw5ZVVHA$s/xibiPvrxIvSFIqejl5IznvX72aPawrYLUczxtj3bA"
    ),
    # Apache 2.4, htpasswd -nb, -nbB, -nbBC 10, -nbs, -nb2
    "htpasswd": "$apr1$0JyueRm9$/BTKx9bzaIX.OrGkLWFql1",
    "htpasswd -B": "$2y$05$sXjAzpMJc2xYeaKPRZgI7OnQXcQhJfjb4Wch9YFRr7QOM9oxb9MtW",
    "htpasswd -B -C 10": "$2y$10$/8FaLUipLYULYdv5SgG.bOc2HBBmqyQrv42uczCHNRJxmIbkP8hxy",
    "htpasswd -s": "{SHA}BamUwd4BOl+1jAtu97w165yA/8g=",
    "htpasswd -2": "$5$N3r2sG5paimCeCTH$ltHnq0T4SAwqcCuE4q.QwZo.Z37kJXwKAINmyFBPc06",
    # OpenSSL 3.0, openssl passwd -salt pepper
    "openssl -5": "$5$pepper$Pm6nNx9.FTECtKa04OCW1ZJQaskUA03elvhqopSJ1B2",
    "openssl -6": ("$6$pepper$xr7AhYRSfrH1qo6wJMmNCu2EXoIV7B3AQE0Ce258onq/eXR03J4Gw/hF70qDZxH4SzAMgRM6BAIt6uq5WrXrb0"),
    # Django's documented form pbkdf2_sha256$iterations$salt$base64(PBKDF2), by hashlib
    "Django": "pbkdf2_sha256$1000$seasalt$mDevk63R1n2ykQNTzJ4OqSwDv6i5Mv8yDnCrOseH7WY=",
    # libpass 1.9
    "passlib sha256": "$pbkdf2-sha256$1000$MDEyMzQ1Njc4OWFiY2RlZg$nhrfHyvskS6L4hmA8a0UdamaUSrhKIsZW7Hf8buqksY",
    "passlib sha512": (
        "$pbkdf2-sha512$1000$MDEyMzQ1Njc4OWFiY2RlZg$"
        "3VxUNbTV5ZfILocGohKMEZ/Ri/gbW8D5VSGTaBJkgmUErOmsxjFNSQG1FkaliRAs2sg69BS4RvC.iz.aNNfh0Q"
    ),
    # argon2-cffi 25.1, one pass less than ours
    "weaker argon2id": argon2.low_level.hash_secret(
        PASSWORD.encode(), b"0123456789abcdef", 1, passwords_argon2.MEMORY_KIB, 1, 32, argon2.low_level.Type.ID
    ).decode(),
}
#: Dovecot 2.3.19, doveadm pw -s ARGON2ID: more memory and passes than ours.
STRONGER = "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$rKvcNXhZ2Ir/J/x3GENK9A$tEKX4GjL9j++VTbYCS2tmRicRcsT3Wy1yY6YMZkr9qA"
#: Ulrich Drepper's SHA-crypt.txt, the vectors of $6$ (those with a long salt as they are stored).
SHA_CRYPT = [
    (
        "Hello world!",
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
    ),
    (
        "Hello world!",
        "$6$rounds=10000$saltstringsaltst$"
        "OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
    ),
    (
        "This is just a test",
        "$6$rounds=5000$toolongsaltstrin$"
        "lQ8jolhgVRVhY4b5pZKaysCLi0QBxGoNeKQzQ3glMhwllF7oGDZxUhx1yxdYcz/e1JSbq3y6JMxxl8audkUEm0",
    ),
    (
        "a very much longer text to encrypt.  This one even stretches over morethan one line.",
        "$6$rounds=1400$anotherlongsalts$"
        "POfYwTEok97VWcjxIiSOjiykti.o/pQs.wPvMxQ6Fm7I6IoYN3CmLs66x9t0oSwbtEW7o7UmJEiDwGqd8p4ur1",
    ),
    (
        "we have a short salt string but not a short password",
        "$6$rounds=77777$short$WuQyW2YR.hBNpjjRhpYD/ifIw05xdfeEyQoMxIXbkvr0gge1a1x3yRULJ5CCaUeOxFmtlcGZelFl5CxtgfiAc0",
    ),
    (
        "the minimum number is still observed",
        "$6$rounds=1000$roundstoolow$"
        "kUMsbe306n21p9R.FRkW3IGn.S9NPN0x50YhH1xhLsPuWGsUSklZt58jaTfF4ZEQpyUNGc0dqbpBYYBaHHrsX.",
    ),
]

# ---- our own form --------------------------------------------------------------------------------


def test_what_we_hash_is_right() -> None:
    assert OWN.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert HASHER.verify(PASSWORD, OWN) is Verdict.RIGHT
    assert HASHER.verify(PASSWORD.encode(), OWN) is Verdict.RIGHT
    assert HASHER.verify("correct horse u\u0308", OWN) is Verdict.RIGHT, "typed in another way"
    assert HASHER.verify("correct horse u", OWN) is Verdict.WRONG
    assert HASHER.verify(PASSWORD + " ", OWN) is Verdict.WRONG


def test_each_hash_has_its_salt() -> None:
    assert HASHER.hash(PASSWORD) != OWN
    hashers = [PasswordHasher(lambda octets: b"x" * octets) for _ in range(2)]
    assert hashers[0].hash(PASSWORD) == hashers[1].hash(PASSWORD), "chance is an argument"


@pytest.mark.parametrize("password", ["", "a\0b", "a\nb", b"\xff", "x" * (MAX_PASSWORD_OCTETS + 1)])
def test_what_can_be_nobodys_password(password: str | bytes) -> None:
    with pytest.raises(Unfit):
        HASHER.hash(password)
    assert HASHER.verify(password, OWN) is Verdict.WRONG
    HASHER.dummy(password)


def test_a_stronger_hash_than_ours_stays() -> None:
    assert HASHER.verify(PASSWORD, STRONGER) is Verdict.RIGHT
    assert HASHER.verify("wrong", STRONGER) is Verdict.WRONG


def test_the_decoy_is_no_ones_password() -> None:
    assert HASHER.verify(passwords_argon2.DECOY, passwords_argon2.DECOY) is Verdict.WRONG
    assert passwords_argon2.DECOY.rpartition("$")[0].rpartition("$")[0] == OWN.rpartition("$")[0].rpartition("$")[0]


def test_threads_do_not_disturb_each_other() -> None:
    with ThreadPoolExecutor(4) as pool:
        stored = [OWN, RECORDED["openssl -6"], RECORDED["htpasswd -B"]] * 4
        right = list(pool.map(lambda each: HASHER.verify(PASSWORD, each), stored))
        wrong = list(pool.map(lambda each: HASHER.verify("wrong", each), stored))
    assert right == [Verdict.RIGHT, Verdict.RIGHT_BUT_OLD, Verdict.RIGHT_BUT_OLD] * 4
    assert set(wrong) == {Verdict.WRONG}


def test_the_libraries_are_imported_late() -> None:
    code = "import sys, elemta.auth.passwords; print({'argon2', 'bcrypt', 'passlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


# ---- the forms of others -------------------------------------------------------------------------


@pytest.mark.parametrize("stored", RECORDED.values(), ids=RECORDED.keys())
def test_recorded(stored: str) -> None:
    assert HASHER.verify(PASSWORD, stored) is Verdict.RIGHT_BUT_OLD
    assert not read_form(stored).fits(b"correct horse u")


@pytest.mark.parametrize(("password", "stored"), SHA_CRYPT)
def test_the_vectors_of_sha_crypt(password: str, stored: str) -> None:
    assert read_form(stored).fits(password.encode())
    assert not read_form(stored).fits(password.encode() + b"x")


@pytest.mark.parametrize("stored", [OWN, STRONGER, *RECORDED.values()])
def test_a_stored_text_is_no_password(stored: str) -> None:
    """Whoever reads the users' table logs in as nobody."""
    assert HASHER.verify(stored, stored) is Verdict.WRONG
    for part in {stored.partition("}")[2], stored.rpartition("$")[2]} - {"", stored}:
        assert not read_form(stored).fits(part.encode())


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "secret",
        "{PLAIN}secret",
        "{CLEAR}secret",
        "{CLEARTEXT}secret",
        "{PLAIN-MD5}5ebe2294ecd0e0f08eab7690d2a6ee69",
        "{}secret",
        "{secret",
        "{CRYPT}secret",
        "{CRYPT}{PLAIN}secret",
        "$secret$",
        "5ebe2294ecd0e0f08eab7690d2a6ee69",
    ],
)
def test_a_password_in_the_clear_is_none(stored: str) -> None:
    for password in ("secret", stored or "x"):
        assert HASHER.verify(password, stored) is Verdict.UNKNOWN_FORM


def test_another_systems_password_as_it_was_typed() -> None:
    """Others hash what comes, without SASLprep; the ligature would be two letters with it."""
    ligature = "{SSHA}" + _ssha("\ufb01nal".encode())
    assert HASHER.verify("\ufb01nal", ligature) is Verdict.RIGHT_BUT_OLD
    assert HASHER.verify("final", ligature) is Verdict.WRONG
    assert HASHER.verify("\ufb01nal", "{SSHA}" + _ssha(b"final")) is Verdict.RIGHT_BUT_OLD


def _ssha(password: bytes) -> str:
    return base64.b64encode(hashlib.sha1(password + b"salt").digest() + b"salt").decode()


def test_bcrypt_looks_at_72_octets() -> None:
    stored = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    assert HASHER.verify("x" * 80, stored) is Verdict.RIGHT_BUT_OLD, "as everybody else has it"
    assert HASHER.verify("x" * 71, stored) is Verdict.WRONG


def test_schemes_are_compared_without_case() -> None:
    assert HASHER.verify(PASSWORD, RECORDED["SSHA"].replace("SSHA", "ssha")) is Verdict.RIGHT_BUT_OLD


# ---- bounds --------------------------------------------------------------------------------------


def argon(memory: int = 19456, passes: int = 2, lanes: int = 1) -> str:
    return f"$argon2id$v=19$m={memory},t={passes},p={lanes}${'A' * 22}${'A' * 43}"


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(argon(memory=passwords_argon2.MAX_MEMORY_KIB + 1, passes=1), id="memory"),
        pytest.param(argon(passes=passwords_argon2.MAX_WORK_KIB // 19456 + 1), id="passes"),
        pytest.param(argon(lanes=passwords_argon2.MAX_LANES + 1), id="lanes"),
        pytest.param(argon(memory=999_999_999, passes=999_999_999), id="everything"),
        pytest.param(argon().replace("argon2id", "argon2d"), id="argon2d"),
        pytest.param(argon().replace("v=19", "v=16"), id="version"),
        pytest.param(f"$2b${passwords_bcrypt.MAX_COST + 1}${'A' * 53}", id="bcrypt"),
        pytest.param(f"$2x$10${'A' * 53}", id="2x"),
        pytest.param(f"$6$rounds={passwords_shacrypt.MAX_ROUNDS + 1}$salt${'A' * 86}", id="SHA-crypt"),
        pytest.param(f"$5$rounds={passwords_shacrypt.MIN_ROUNDS - 1}$salt${'A' * 43}", id="too few rounds"),
        pytest.param(f"$5$salt${'A' * 86}", id="length of $5$"),
        pytest.param(f"$6$salt${'A' * 43}", id="length of $6$"),
        pytest.param(f"pbkdf2_sha256${passwords_pbkdf2.MAX_ITERATIONS + 1}$salt${'A' * 43}=", id="Django"),
        pytest.param(f"$pbkdf2-sha256${passwords_pbkdf2.MAX_ITERATIONS + 1}$salt${'A' * 43}", id="passlib"),
        pytest.param(f"$pbkdf2-sha256$1000$salt${'A' * 86}", id="another digest's length"),
        pytest.param("{PBKDF2}$1$salt$9999999999$" + "0" * 40, id="Dovecot"),
        pytest.param("{SSHA}" + "!" * 28, id="no base64"),
        pytest.param("{SSHA}" + "A" * 27 + "=", id="no salt"),
        pytest.param("{SHA}" + "A" * 32, id="a salt without a place"),
        pytest.param("{SSHA}" + "A" * 400, id="a salt of 280 octets"),
        pytest.param("{SHA}AAAA", id="short"),
        pytest.param(OWN + "A" * MAX_STORED_CHARACTERS, id="long"),
        pytest.param(OWN.replace("19456", "\u0661\u0669456"), id="other digits"),
    ],
)
def test_a_hostile_row_costs_no_more_than_an_unknown_user(stored: str) -> None:
    with pytest.raises(UnknownForm):
        read_form(stored)


def test_work_within_the_bounds_is_done() -> None:
    read_form(argon(memory=passwords_argon2.MAX_MEMORY_KIB, passes=4, lanes=passwords_argon2.MAX_LANES))
    read_form(f"$2b${passwords_bcrypt.MAX_COST}${'A' * 53}")
    read_form(f"$6$rounds={passwords_shacrypt.MAX_ROUNDS}$salt${'A' * 86}")
    read_form(f"pbkdf2_sha256${passwords_pbkdf2.MAX_ITERATIONS}$salt${'A' * 43}=")


def test_what_only_the_library_understands_to_be_broken() -> None:
    """Less memory than eight blocks a lane (RFC 9106 §3.1) passes our reading, not argon2's."""
    assert HASHER.verify(PASSWORD, argon(memory=8, lanes=2)) is Verdict.UNKNOWN_FORM


@given(st.text(max_size=80) | st.sampled_from([OWN, *RECORDED.values()]).map(lambda each: each[:-3]))
def test_no_stored_text_raises_anything_but_unknown_form(stored: str) -> None:
    try:
        read_form(stored)
    except UnknownForm as unknown:
        reason = str(unknown)
        assert len(stored) < 12 or stored not in reason


# ---- what it costs -------------------------------------------------------------------------------


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The parameters of each verification of argon2, as they happen."""
    seen: list[bytes] = []
    really = argon2.low_level.verify_secret

    def verify_secret(stored: bytes, secret: bytes, type: argon2.low_level.Type) -> bool:
        seen.append(stored.rsplit(b"$", 2)[0])
        return really(stored, secret, type)

    monkeypatch.setattr(argon2.low_level, "verify_secret", verify_secret)
    return seen


def test_an_unknown_user_costs_what_a_wrong_password_costs(verifications: list[bytes]) -> None:
    """The same work, counted; `tests/campaign/test_enumeration.py` measures it."""
    HASHER.dummy("wrong")
    unknown = verifications[:]
    verifications.clear()
    assert HASHER.verify("wrong", OWN) is Verdict.WRONG
    assert verifications == unknown == [OWN.rsplit("$", 2)[0].encode()]


@pytest.mark.parametrize("password", ["wrong", "\ufb01nal", "a\0b", b"\xff"])
@pytest.mark.parametrize(
    "stored", [OWN, RECORDED["SSHA"], RECORDED["openssl -5"], "secret"], ids=["own", "ssha", "sha-crypt", "no hash"]
)
def test_whatever_is_stored(stored: str, password: str | bytes, verifications: list[bytes]) -> None:
    HASHER.dummy(password)
    unknown = verifications[:]
    verifications.clear()
    assert HASHER.verify(password, stored) in {Verdict.WRONG, Verdict.UNKNOWN_FORM}
    assert verifications == unknown
