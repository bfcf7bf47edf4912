"""Fixtures that every store's tests use."""

import pytest

from tests.storage.mails import Post


@pytest.fixture
def post() -> Post:
    return Post()
