"""What the servers' codes and the network's failures mean, code by code."""

import errno
import socket
import ssl

import pytest

from elemta.datasource.base import DatabaseAway, DatabaseFull, DatabaseRefused, DatabaseUnusable
from elemta.datasource.faults import MAX_WORDS, Fault, FaultKind, error_of, mysql_fault, plain, postgresql_fault
from elemta.datasource.network import network_fault

POSTGRESQL_STATES = {
    FaultKind.AWAY: "25006 53000 53200 53300 53400 55000 57014 57P03 58030 XX000 99999 P0001",
    FaultKind.LOST: "08000 08003 08006 08001 08007 08P01 25P03 57P01 57P02 57P05",
    FaultKind.CONFLICT: "40001 40P01 40003 55P03",
    FaultKind.FULL: "53100",
    FaultKind.REFUSED: "22001 22003 22021 22P02 23502 23505 23514 54000",
    FaultKind.UNUSABLE: "0A000 28000 28P01 3D000 3F000 42501 42601 42703 42P01 57P04",
}

MYSQL_CODES = {
    FaultKind.AWAY: (1040, 1047, 1053, 1203, 1226, 1290, 1317, 1836, 1969, 3024, 1129, 1026, 1180, 9999),
    FaultKind.LOST: (2006, 2013, 1927, 4031),
    FaultKind.CONFLICT: (1205, 1213, 3101, 3572),
    FaultKind.FULL: (1021, 1114, 3675),
    FaultKind.REFUSED: (1048, 1062, 1153, 1264, 1366, 1406, 1292, 3819, 4025),
    FaultKind.UNUSABLE: (1044, 1045, 1049, 1054, 1064, 1142, 1146, 1251, 1698),
}


@pytest.mark.parametrize(
    ("kind", "state"), [(kind, state) for kind, states in POSTGRESQL_STATES.items() for state in states.split()]
)
def test_postgresql_states(kind: FaultKind, state: str) -> None:
    fault = postgresql_fault(state, "words")
    assert (fault.kind, fault.words) == (kind, f"words [{state}]")


@pytest.mark.parametrize(("kind", "code"), [(kind, code) for kind, codes in MYSQL_CODES.items() for code in codes])
def test_mysql_codes(kind: FaultKind, code: int) -> None:
    fault = mysql_fault(code, "words")
    assert (fault.kind, fault.words) == (kind, f"words [{code}]")


@pytest.mark.parametrize(
    ("fault", "is_definite"),
    [
        (postgresql_fault("40001", ""), True),
        (postgresql_fault("23505", ""), True),
        (postgresql_fault("XX000", ""), True),
        (postgresql_fault("53100", "", severity="PANIC"), False),
        (postgresql_fault("57P01", "", severity="FATAL"), False),
        (postgresql_fault("40003", ""), False),
        (postgresql_fault("08007", ""), False),
        (mysql_fault(1213, ""), True),
        (mysql_fault(1047, ""), True),
        (mysql_fault(1180, ""), False),
        (mysql_fault(1317, ""), False),
        (mysql_fault(2013, ""), False),
    ],
)
def test_what_an_answer_to_commit_leaves_open(fault: Fault, is_definite: bool) -> None:
    assert fault.is_definite is is_definite


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), FaultKind.AWAY, "nobody listens"),
        (FileNotFoundError(errno.ENOENT, "no such file"), FaultKind.AWAY, "nobody listens"),
        (PermissionError(errno.EACCES, "denied"), FaultKind.UNUSABLE, "no right"),
        (socket.gaierror(socket.EAI_NONAME, "unknown name"), FaultKind.AWAY, "does not resolve"),
        (ConnectionResetError(errno.ECONNRESET, "reset by peer"), FaultKind.LOST, "reset by peer"),
        (OSError(errno.EHOSTUNREACH, "no route"), FaultKind.LOST, "no route"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed"), FaultKind.AWAY, "nobody listens"),
        (OSError("odd"), FaultKind.LOST, "odd"),
        (EOFError(), FaultKind.LOST, "broke"),
        (ssl.SSLError(1, "decryption failed"), FaultKind.LOST, "TLS failed"),
        (ssl.SSLCertVerificationError(1, "self-signed certificate"), FaultKind.UNUSABLE, "self-signed"),
        (ConnectionError("the server rejected SSL upgrade"), FaultKind.UNUSABLE, "no encryption"),
    ],
)
def test_failures_of_the_network(error: Exception, kind: FaultKind, words: str) -> None:
    fault = network_fault(error)
    assert fault.kind is kind
    assert words in fault.words


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (FaultKind.AWAY, DatabaseAway),
        (FaultKind.LOST, DatabaseAway),
        (FaultKind.CONFLICT, DatabaseAway),
        (FaultKind.FULL, DatabaseFull),
        (FaultKind.REFUSED, DatabaseRefused),
        (FaultKind.UNUSABLE, DatabaseUnusable),
    ],
)
def test_the_error_of_a_kind(kind: FaultKind, error: type[Exception]) -> None:
    made = error_of(Fault(kind, "it\nbroke", "mend it"), "mysql://h/d")
    assert type(made) is error
    assert str(made) == "mysql://h/d: it broke (mend it)"


def test_words_are_bounded() -> None:
    assert plain("x" * MAX_WORDS) == "x" * MAX_WORDS
    assert plain("x" * (MAX_WORDS + 1)) == "x" * MAX_WORDS + "…"
    assert plain("a\x1b[31mb\u2028c") == "a [31mb c"
