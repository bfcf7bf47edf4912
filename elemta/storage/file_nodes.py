"""The nodes that took part in the queue, with their latest fencing tokens.

What is not here: when the file is written (`file_queue`).
"""

from collections.abc import Mapping

import orjson
from attrs import field, frozen

from elemta.storage.file_folders import Folder, Place

NODES: Place = (Folder.ROOT, "nodes.json")


@frozen
class Nodes:
    """The latest token of each node. `last` is the greatest that was ever given."""

    tokens: Mapping[str, int] = field(factory=dict)
    last: int = 0

    def joined(self, owner: str) -> "Nodes":
        """What is true once an owner has a new token."""
        token = self.last + 1
        return Nodes({**self.tokens, owner: token}, token)

    def token_of(self, owner: str) -> int:
        """The latest token of an owner, 0 when it never joined."""
        return self.tokens.get(owner, 0)

    def encode(self) -> bytes:
        """The file."""
        return orjson.dumps({"nodes": self.tokens, "last": self.last}, option=orjson.OPT_INDENT_2) + b"\n"

    @classmethod
    def decode(cls, octets: bytes) -> "Nodes":
        """The nodes of a file. Raises `ValueError` when it is not one."""
        try:
            plain = orjson.loads(octets)
            tokens = {str(owner): int(token) for owner, token in plain["nodes"].items()}
            return cls(tokens, max([int(plain["last"]), *tokens.values()]))
        except (TypeError, LookupError, AttributeError) as error:
            raise ValueError(f"it cannot be read: {error}") from error
