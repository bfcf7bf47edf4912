"""The queue on a server of the MySQL family, MariaDB included.

What is not here: what it shares with the other database servers (`shared`), its words and tables (`mysql_dialect`,
`mysql_schema`). Raises what `shared` does.
"""

from elemta.datasource.migrations import MigratableDatabase
from elemta.runtime.clock import Clock
from elemta.runtime.ids import IdSource
from elemta.storage.mysql_dialect import MysqlDialect
from elemta.storage.shared import DatabaseStore


class MysqlStore(DatabaseStore):
    """A `SharedStore` on MySQL and MariaDB."""

    def __init__(self, database: MigratableDatabase, clock: Clock, *, ids: IdSource | None = None) -> None:
        """`database` is run by whoever made it. `ids` names staged content."""
        super().__init__(database, MysqlDialect(), clock=clock, ids=ids)
