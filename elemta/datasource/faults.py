"""What a server's error codes mean to the unit of work that met them.

What is not here: the drivers' exceptions, from which the codes are taken (`postgresql`, `mysql`), or what is done about
a fault (`pool`). Codes: PostgreSQL's documentation, appendix A; MySQL's server error reference; MariaDB's error codes.
"""

import enum

from attrs import frozen

from elemta.datasource.base import (
    DatabaseAway,
    DatabaseError,
    DatabaseFull,
    DatabaseRefused,
    DatabaseUnusable,
)

#: Characters of a server's own words that are passed on.
MAX_WORDS = 300


class FaultKind(enum.Enum):
    """Whose fault, and whether to try again."""

    #: Try again later, on any connection.
    AWAY = "away"
    #: The connection broke: nothing more can be asked on it, and what was asked last may or may not have happened.
    LOST = "lost"
    #: Another transaction was in the way: run the whole unit again at once.
    CONFLICT = "conflict"
    FULL = "full"
    REFUSED = "refused"
    UNUSABLE = "unusable"


@frozen
class Fault:
    """One failure as the server or the driver told it. `words` are the server's; `remedy` is ours.

    `is_definite` tells that an answer to COMMIT was "no": without it nobody knows what became of the transaction.
    """

    kind: FaultKind
    words: str
    remedy: str = ""
    is_definite: bool = False


ERROR_OF_KIND: dict[FaultKind, type[DatabaseError]] = {
    FaultKind.AWAY: DatabaseAway,
    FaultKind.LOST: DatabaseAway,
    FaultKind.CONFLICT: DatabaseAway,
    FaultKind.FULL: DatabaseFull,
    FaultKind.REFUSED: DatabaseRefused,
    FaultKind.UNUSABLE: DatabaseUnusable,
}


def error_of(fault: Fault, name: str) -> DatabaseError:
    """The exception for the callers of a database called `name`."""
    remedy = f" ({fault.remedy})" if fault.remedy else ""
    return ERROR_OF_KIND[fault.kind](f"{name}: {plain(fault.words)}{remedy}")


def plain(words: str) -> str:
    """A server's words on one line, bounded, without control characters: they may quote what a stranger sent."""
    shown = "".join(letter if letter.isprintable() else " " for letter in words[: MAX_WORDS + 1])
    return shown if len(shown) <= MAX_WORDS else f"{shown[:MAX_WORDS]}…"


# ---- PostgreSQL ----------------------------------------------------------------------------------

RESTARTS = "it restarts or stops; nothing to do if that was meant"
READ_ONLY = "it takes no changes: point the dsn at the primary server, or wait until it recovered"
BUSY = "it is busy: see what holds it up, or allow statements more time with statement_timeout in the dsn"
CONNECTIONS = "raise the server's max_connections, or lower pool_size in the dsn"
SPACE = "make room on the server's disk"
LOGIN = "check user and password of the dsn, and who may connect from here"
RIGHTS = "grant the user the rights named in the documentation"
NO_DATABASE = "create the database, or mend its name in the dsn"
SCHEMA = "the tables are not what this version expects: let Elemta create them, or check the database's name"

_POSTGRESQL_STATES: dict[str, tuple[FaultKind, str]] = {
    "0A000": (FaultKind.UNUSABLE, SCHEMA),
    "25006": (FaultKind.AWAY, READ_ONLY),
    "25P03": (FaultKind.LOST, BUSY),
    "28000": (FaultKind.UNUSABLE, LOGIN),
    "28P01": (FaultKind.UNUSABLE, LOGIN),
    "3D000": (FaultKind.UNUSABLE, NO_DATABASE),
    "3F000": (FaultKind.UNUSABLE, SCHEMA),
    "42501": (FaultKind.UNUSABLE, RIGHTS),
    "53100": (FaultKind.FULL, SPACE),
    "53200": (FaultKind.AWAY, "the server has no memory left"),
    "53300": (FaultKind.AWAY, CONNECTIONS),
    "54000": (FaultKind.REFUSED, ""),
    "55P03": (FaultKind.CONFLICT, BUSY),
    "57014": (FaultKind.AWAY, BUSY),
    "57P01": (FaultKind.LOST, RESTARTS),
    "57P02": (FaultKind.LOST, RESTARTS),
    "57P03": (FaultKind.AWAY, RESTARTS),
    "57P04": (FaultKind.UNUSABLE, NO_DATABASE),
    "57P05": (FaultKind.LOST, RESTARTS),
    "58030": (FaultKind.AWAY, "the server's disk fails: see its log"),
}

_POSTGRESQL_CLASSES: dict[str, tuple[FaultKind, str]] = {
    "08": (FaultKind.LOST, ""),
    "22": (FaultKind.REFUSED, ""),
    "23": (FaultKind.REFUSED, ""),
    "28": (FaultKind.UNUSABLE, LOGIN),
    "40": (FaultKind.CONFLICT, BUSY),
    "42": (FaultKind.UNUSABLE, SCHEMA),
    "44": (FaultKind.REFUSED, ""),
    "53": (FaultKind.AWAY, "the server lacks a resource: see its log"),
    "54": (FaultKind.REFUSED, ""),
}

#: 08007 and CockroachDB's 40003: the server itself does not know what became of the transaction.
_POSTGRESQL_UNKNOWN = frozenset({"08007", "40003"})


def postgresql_fault(state: str, words: str, *, severity: str = "ERROR") -> Fault:
    """What an SQLSTATE means. An ERROR in answer to COMMIT means that the transaction was rolled back; FATAL and PANIC
    end the connection, and leave open whether the commit came first (it waits for standby servers after it is done).
    """
    kind, remedy = _POSTGRESQL_STATES.get(state) or _POSTGRESQL_CLASSES.get(state[:2], (FaultKind.AWAY, "see its log"))
    is_definite = severity == "ERROR" and kind is not FaultKind.LOST and state not in _POSTGRESQL_UNKNOWN
    return Fault(kind, f"{words} [{state}]", remedy, is_definite)


# ---- MySQL and MariaDB ---------------------------------------------------------------------------

_MYSQL_CODES: dict[FaultKind, dict[str, tuple[int, ...]]] = {
    FaultKind.CONFLICT: {
        # A lock's deadline and deadlock, the same of XA, a record that changed since it was read, rollback at COMMIT.
        BUSY: (1205, 1213, 1613, 1614, 1020, 3058, 3101, 3132, 3572),
    },
    FaultKind.FULL: {
        # Disk full; table full; a tablespace cannot grow; a temporary one cannot; the log of InnoDB; a quota.
        SPACE: (1021, 1114, 1713, 3019, 3675),
    },
    FaultKind.AWAY: {
        CONNECTIONS: (1040, 1203, 1226),
        RESTARTS: (1047, 1053, 1077, 1079, 3032, 3168),
        READ_ONLY: (1036, 1209, 1290, 1792, 1836, 3100),
        BUSY: (1317, 1969, 3024, 1028, 1135),
        "the server has no memory left": (1037, 1038, 1041),
        "the server's disk fails: see its log": (1003, 1026, 1030, 1180),
        "the server refuses this host after failed connections: run FLUSH HOSTS there": (1129,),
    },
    FaultKind.LOST: {
        "": (1152, 1156, 1158, 1159, 1160, 1161, 1184, 1189, 1190, 1927, 2006, 2013, 2014, 2027, 2055, 4031),
    },
    FaultKind.REFUSED: {
        "": (
            *(1048, 1062, 1118, 1136, 1169, 1216, 1217, 1264, 1265, 1292, 1300, 1364, 1365, 1366, 1390, 1406, 1411),
            *(1416, 1441, 1451, 1452, 1525, 1557, 1586, 1690, 3140, 3141, 3819, 4025),
        ),
        "raise the server's max_allowed_packet": (1105, 1153, 1162, 1301),
    },
    FaultKind.UNUSABLE: {
        LOGIN: (1045, 1130, 1131, 1132, 1133, 1251, 1396, 1524, 1698, 1820, 1862, 2054, 2059, 3118, 3159, 4151),
        RIGHTS: (1044, 1142, 1143, 1227, 1370, 1419),
        NO_DATABASE: (1046, 1049, 1102),
        SCHEMA: (1050, 1051, 1054, 1060, 1061, 1064, 1072, 1091, 1109, 1146, 1149, 1176, 1193, 1286),
    },
}

_MYSQL_MEANING = {
    code: (kind, remedy)
    for kind, remedies in _MYSQL_CODES.items()
    for remedy, codes in remedies.items()
    for code in codes
}

#: Answers to COMMIT that mean "rolled back": a certification that failed (1213, Galera), a rollback named as such, a
#: server that takes no changes or is no part of its cluster, and whatever never reached the engine.
_MYSQL_DEFINITE = frozenset({1047, 1205, 1213, 1290, 1792, 1836, 3100, 3101})


def mysql_fault(code: int, words: str) -> Fault:
    """What an error number means."""
    kind, remedy = _MYSQL_MEANING.get(code, (FaultKind.AWAY, "see its log"))
    return Fault(kind, f"{words} [{code}]", remedy, code in _MYSQL_DEFINITE)
