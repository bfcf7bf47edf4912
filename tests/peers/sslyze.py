"""sslyze, which judges a server's TLS by Mozilla's profiles, in a virtual environment of its own.

It pins versions of `cryptography` that ours need not be. What is not here: what is expected of its findings.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import UNDER_CI

#: The release whose words the test knows.
RELEASE = "sslyze==6.3.1"
INSTALL_SECONDS = 300
SCAN_SECONDS = 110


def find_sslyze(cache: Path) -> Path:
    """Where sslyze is: as ELEMTA_TEST_SSLYZE says, on the PATH, or installed into `cache`; else the test is skipped."""
    named = os.environ.get("ELEMTA_TEST_SSLYZE") or shutil.which("sslyze")
    if named:
        return Path(named)
    program = cache / "bin" / "sslyze"
    if not program.exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(cache)], check=True, timeout=INSTALL_SECONDS)
            # Without what limits our own environment: it may pin other versions of the same packages.
            environ = {key: value for key, value in os.environ.items() if key != "PIP_CONSTRAINT"}
            subprocess.run(
                [cache / "bin" / "pip", "install", "-q", RELEASE], check=True, timeout=INSTALL_SECONDS, env=environ
            )
        except (subprocess.SubprocessError, OSError) as error:
            message = f"needs {RELEASE}, which could not be installed: {error}"
            if UNDER_CI:
                pytest.fail(message, pytrace=False)
            pytest.skip(message)
    return program


def findings(program: Path, folder: Path, *arguments: str) -> tuple[dict[str, str], dict[str, Any]]:
    """What does not comply with Mozilla's intermediate profile, by subject; and the whole result."""
    result = folder / "sslyze.json"
    said = subprocess.run(
        [program, "--mozilla_config", "intermediate", "--json_out", result, *arguments],
        capture_output=True,
        text=True,
        timeout=SCAN_SECONDS,
    ).stdout
    rows = [line.strip()[2:] for line in said.splitlines() if line.strip().startswith("* ") and ": " in line]
    compliance = said.partition("COMPLIANCE AGAINST TLS CONFIGURATION")[2]
    assert compliance, said
    found = {row.partition(": ")[0]: row.partition(": ")[2] for row in rows if row in compliance}
    return found, json.loads(result.read_text())
