"""Users on MySQL or MariaDB.

What is not here: everything that is not MySQL's alone (`users_server`, `users_tables`). The rights that are needed
stand in `datasource.mysql`.
"""

from elemta.auth.table_units import Words
from elemta.auth.users_schema import MYSQL
from elemta.auth.users_server import ServerDialect


def rendered(statement: str) -> str:
    """`%s` for each `?`, and `%%` for a percent sign."""
    return statement.replace("%", "%%").replace("?", "%s")


MYSQL_DIALECT = ServerDialect(
    words=Words(
        groups="`groups`",
        contains="LOCATE(?, LOWER({})) > 0",
        has_capital="username REGEXP '[A-Z]'",
        locking=" FOR UPDATE",
        ignoring=("INSERT IGNORE", ""),
    ),
    migrations=MYSQL,
    columns="SELECT column_name FROM information_schema.columns"
    " WHERE table_name = 'users' AND table_schema = DATABASE()",
    rendered=rendered,
)
