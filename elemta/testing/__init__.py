"""Fixtures for plugin authors and our own tests."""
