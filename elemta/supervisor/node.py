"""The name under which a process owns mails in a shared queue.

What is not here: what it owns (`storage`). Two machines may bear one hostname (containers, images that were copied), so
the hostname alone would have one take the other's mails. The name ends in characters that were drawn at the first start
and lie in the queue folder: the same after a restart, so that a node picks up its own mails at once; new where the
folder is new, so that the old node's are adopted when its lease is past. A folder that was copied must lose its
`node-id`.

Failure raised: `OSError`.
"""

import secrets
from pathlib import Path

from elemta.mail.ids import ALPHABET
from elemta.runtime.own_files import make_once

NODE_ID_NAME = "node-id"
#: 62 ** 8 names: two of a thousand nodes are the same once in four hundred million fleets.
NODE_ID_CHARACTERS = 8


def node_name(queue_dir: Path, hostname: str, *, worker: int = 0) -> str:
    """`hostname~id`, or `hostname~id/2` for the second worker process; makes the id where there is none yet."""
    name = f"{hostname}~{_node_id(queue_dir)}"
    return f"{name}/{worker}" if worker else name


def _node_id(queue_dir: Path) -> str:
    path = queue_dir / NODE_ID_NAME
    try:
        found = path.read_text("ascii").strip()
    except FileNotFoundError:
        return _draw(path)
    if len(found) != NODE_ID_CHARACTERS or not set(found) <= set(ALPHABET):
        raise OSError(f"{path} does not hold {NODE_ID_CHARACTERS} letters and digits: remove it, and a new one is made")
    return found


def _draw(path: Path) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    drawn = "".join(secrets.choice(ALPHABET) for _ in range(NODE_ID_CHARACTERS))
    make_once(path, f"{drawn}\n".encode("ascii"))
    return _node_id(path.parent)
