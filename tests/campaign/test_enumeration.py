"""No user is told from a stranger by the time a wrong password takes: promise 13, for the hashing itself."""

import statistics
import time

from elemta.auth.passwords import PasswordHasher, Verdict

ATTEMPTS = 200
#: Between the medians, of the larger one.
MAX_DIFFERENCE = 0.05


def test_unknown_users_and_wrong_passwords_take_equally_long() -> None:
    hasher = PasswordHasher()
    stored = hasher.hash("right")
    unknown, wrong = [], []
    for attempt in range(ATTEMPTS):
        begun = time.perf_counter()
        hasher.dummy(f"guess {attempt}")
        between = time.perf_counter()
        assert hasher.verify(f"guess {attempt}", stored) is Verdict.WRONG
        unknown.append(between - begun)
        wrong.append(time.perf_counter() - between)
    medians = statistics.median(unknown), statistics.median(wrong)
    assert (max(medians) - min(medians)) / max(medians) < MAX_DIFFERENCE, medians
