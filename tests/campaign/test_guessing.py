"""Wrong passwords by the thousand, guesses at who exists, at a real server.

The short forms are in `tests.peers.test_auth`.
"""

from pathlib import Path

import pytest

from tests.peers.test_auth import check_enumeration, check_wrong_passwords


@pytest.mark.timeout(900)
def test_ten_thousand_wrong_passwords(tmp_path: Path) -> None:
    check_wrong_passwords(tmp_path, sessions=3400)


@pytest.mark.timeout(600)
def test_two_hundred_of_each(tmp_path: Path) -> None:
    check_enumeration(tmp_path, guesses=200, tolerance=0.05)
