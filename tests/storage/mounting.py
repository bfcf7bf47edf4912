"""File systems of their own for tests."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    """A file system of its own on a folder, for root alone."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it mounts a file system")
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", *arguments, str(folder)], check=True)
    try:
        yield folder
    finally:
        # Lazily: a check that failed leaves the database open.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
