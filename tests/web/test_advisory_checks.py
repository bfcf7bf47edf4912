"""Checks that say what is wrong of a server that is ready all the same."""

from elemta.web.aggregate import readiness, readiness_of_all

GOOD = {"listeners": "", "store": ""}
AWAY = {**GOOD, "auth": "the users' database is away"}


def test_logins_that_nobody_can_make_are_told_and_keep_no_server_from_being_ready() -> None:
    says = readiness(AWAY)
    assert says["ready"] is True
    assert says["checks"] == {
        "listeners": {"ok": True, "reason": ""},
        "store": {"ok": True, "reason": ""},
        "auth": {"ok": False, "reason": "the users' database is away"},
    }
    assert readiness({**AWAY, "store": "full"})["ready"] is False


def test_so_it_is_with_workers() -> None:
    says = readiness_of_all({1: {**GOOD, "store": "full"}, 2: AWAY})
    assert says["ready"] is True
    assert says["workers"] == {
        "1": {"ready": False, "reason": "full"},
        "2": {"ready": True, "reason": "the users' database is away"},
    }
