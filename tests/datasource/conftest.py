"""Fixtures of the tests of databases."""

from tests.datasource.servers import mysql, postgresql, server

__all__ = ["mysql", "postgresql", "server"]
