"""A configuration from a few words, for the tests of this room."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from elemta.config.load import Loaded, load_config

#: Keeps the machine's own name, of which tests know nothing, out of the warnings.
NAMED = {"hostname": "mail.example.com"}

Configure = Callable[..., Loaded]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """Load a configuration: a text, or keys to which a host name is added; `environ` and `overrides` on request."""

    def load(
        written: str | Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        overrides: Mapping[str, object] | None = None,
    ) -> Loaded:
        text = written if isinstance(written, str) else json.dumps({**NAMED, **(written or {})})
        (tmp_path / "elemta.conf").write_text(text)
        return load_config(None, environ or {}, cwd=tmp_path, overrides=overrides)

    return load
