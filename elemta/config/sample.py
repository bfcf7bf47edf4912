"""A configuration to begin with.

JSON has no comments, so it holds only the few keys that a person has to think about; `docs/configuration.md` explains
the others. What is not here: writing it (`cli.config`).
"""

import json
from typing import Any

from elemta.config.addresses import parse_listen_address

_SMTP_PORT = 25  # RFC 5321 §4.5.4.2


def sample(*, dev: bool, relay: str | None) -> str:
    """The text of a configuration. `relay` is the next hop: `HOST` or `HOST:PORT`. Raises `ValueError`."""
    document: dict[str, Any]
    if dev:
        document = {"dev_mode": True, "listen_addr": "127.0.0.1:2525", "queue_dir": "./queue"}
    else:
        document = {
            "listen_addr": ":2525",
            "queue_dir": "./queue",
            "allowed_relays": ["127.0.0.1", "::1"],
        }
    if relay is not None:
        document["routes"] = [{"domain": "*", "transport": "smtp", **_next_hop(relay)}]
    return json.dumps(document, indent=2) + "\n"


def _next_hop(relay: str) -> dict[str, Any]:
    with_port = relay if ":" in relay.rpartition("]")[2] else f"{relay}:{_SMTP_PORT}"
    address = parse_listen_address(with_port)
    if not address.host or not address.port:
        raise ValueError("a relay is a host, or a host and a port from 1 to 65535")
    return {"host": address.host, "port": address.port}
