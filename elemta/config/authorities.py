"""The look at a PEM file of certificates that are to be trusted.

What is not here: trusting them (`tls`, `delivery.clienttls`). Failures raised: none; trouble is words for a person.
"""

import os
from pathlib import Path


def trouble_with_authorities(name: str, *, cwd: Path) -> str:
    """Completes "the file "…"" with why it cannot be used; empty where it can."""
    import ssl  # few configurations name such a file, every command loads one

    path = os.fspath(Path(cwd, name))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError:
        return "holds no certificates in PEM that can be read"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return ""
