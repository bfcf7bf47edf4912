"""Fixtures of the campaigns: those of the tests with real peers, whose long forms they are."""

from tests.peers.conftest import as_root, sink

__all__ = ["as_root", "sink"]
