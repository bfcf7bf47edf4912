"""What somebody may choose about a database.

What is not here: the text these come from (`dsn`), or what is done with them.
"""

import enum
from pathlib import Path

from attrs import field, frozen

#: Connections to one database: a node's spool, dispatcher, heartbeat and operators together seldom need more, and ten
#: nodes stay below the 100 that PostgreSQL allows by default.
POOL_SIZE = 8

#: Seconds until a connection stands, with its TLS and login.
CONNECT_SECONDS = 5.0

#: Seconds that a unit of work waits until one of the pool's connections is free.
POOL_WAIT_SECONDS = 10.0

#: Seconds that the server gives one statement.
STATEMENT_SECONDS = 15.0

#: Seconds that the server lets one statement wait for a lock: less than a statement gets, so that what is reported is
#: the lock, and that another attempt has its chance.
LOCK_SECONDS = 5.0

#: Seconds for a whole unit of work with connecting and every repetition; then its connection is cut. A client gets its
#: 451 after this and `POOL_WAIT_SECONDS` at the latest; it waits ten minutes for it, RFC 5321 §4.5.3.2.6.
UNIT_SECONDS = 20.0

#: Seconds that the server waits for the next statement of a transaction; then it gives up the transaction with its
#: locks. A node that was frozen, or lost its power, in the middle of a commit says no word, and what it has locked is
#: nobody's until then: not longer than the shortest lease. Between two statements a unit waits for nothing of its own.
SILENT_SECONDS = 10.0


class Dialect(enum.Enum):
    """Which protocol and which SQL."""

    POSTGRESQL = "postgresql"
    MYSQL = "mysql"


class Encryption(enum.Enum):
    """How the connection is protected; the names are those that PostgreSQL's tools use."""

    DISABLE = "disable"
    #: Encrypted, but anybody may pose as the server.
    REQUIRE = "require"
    #: The certificate is of an authority we trust, but may be another server's.
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


PORTS = {Dialect.POSTGRESQL: 5432, Dialect.MYSQL: 3306}


@frozen
class DatabaseOptions:
    """One database. `socket` is a folder (PostgreSQL) or a socket's path (MySQL) and goes before host and port.

    `roots` is a file of certificates to trust in place of the system's.
    """

    dialect: Dialect
    host: str = "127.0.0.1"
    port: int = 0
    socket: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    database: str = ""
    encryption: Encryption = Encryption.DISABLE
    roots: Path | None = None
    pool_size: int = POOL_SIZE
    connect_seconds: float = CONNECT_SECONDS
    pool_wait_seconds: float = POOL_WAIT_SECONDS
    statement_seconds: float = STATEMENT_SECONDS
    lock_seconds: float = LOCK_SECONDS
    unit_seconds: float = UNIT_SECONDS
    silent_seconds: float = SILENT_SECONDS

    @property
    def name(self) -> str:
        """Where it is, for people and the log: never a password."""
        user = f"{self.user}@" if self.user else ""
        return f"{self.dialect.value}://{user}{self.place}/{self.database}"

    @property
    def place(self) -> str:
        """The host and port, or the socket."""
        if self.socket:
            return self.socket
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port or PORTS[self.dialect]}"
