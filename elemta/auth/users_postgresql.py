"""Users on PostgreSQL, or on what speaks its protocol.

What is not here: everything that is not PostgreSQL's alone (`users_server`, `users_tables`). The rights that are needed
stand in `datasource.postgresql`.
"""

from itertools import count

from elemta.auth.table_units import Words
from elemta.auth.users_schema import POSTGRESQL
from elemta.auth.users_server import ServerDialect


def rendered(statement: str) -> str:
    """`$1`, `$2` … for each `?`."""
    pieces = statement.split("?")
    numbers = count(1)
    return pieces[0] + "".join(f"${next(numbers)}{piece}" for piece in pieces[1:])


POSTGRESQL_DIALECT = ServerDialect(
    words=Words(
        groups="groups",
        contains='strpos(lower({} COLLATE "C"), ?) > 0',
        has_capital="username COLLATE \"C\" ~ '[A-Z]'",
        locking=" FOR UPDATE",
    ),
    migrations=POSTGRESQL,
    columns="SELECT column_name::text FROM information_schema.columns"
    " WHERE table_name = 'users' AND table_schema = current_schema()",
    rendered=rendered,
)
