"""The queue on PostgreSQL.

What is not here: what it shares with the other database servers (`shared`), its words and tables
(`postgresql_dialect`, `postgresql_schema`). Raises what `shared` does.
"""

from elemta.datasource.migrations import MigratableDatabase
from elemta.runtime.clock import Clock
from elemta.runtime.ids import IdSource
from elemta.storage.postgresql_dialect import PostgresqlDialect
from elemta.storage.shared import DatabaseStore


class PostgresqlStore(DatabaseStore):
    """A `SharedStore` on PostgreSQL."""

    def __init__(self, database: MigratableDatabase, clock: Clock, *, ids: IdSource | None = None) -> None:
        """`database` is run by whoever made it. `ids` names staged content."""
        super().__init__(database, PostgresqlDialect(), clock=clock, ids=ids)
