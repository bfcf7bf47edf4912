"""The pages of a shared queue's nodes: who takes part, who shall drain.

What is not here: what a node does when it is asked to drain (`queue.membership`).
"""

import difflib

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from elemta.storage.base import Node, SharedStore
from elemta.web.answers import JsonAnswer
from elemta.web.asked import body, query
from elemta.web.control import Control
from elemta.web.problems import Problem, bad_request

#: What may be asked of a node, with what it sets.
_ACTIONS = {"drain": True, "undrain": False}


class NodePages:
    """`nodes`, `nodes/actions`."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/nodes", self.list_nodes, methods=["GET"]),
            Route("/nodes/actions", self.act, methods=["POST"]),
        ]

    async def list_nodes(self, request: Request) -> Response:
        """Every node. A queue that is not shared has one, the server itself, and no list."""
        query(request)
        shared = self._control.shared
        nodes = [] if shared is None else await shared.nodes()
        return JsonAnswer(
            {
                "schema": 1,
                "shared": shared is not None,
                "hostname": self._control.identity.hostname,
                "nodes": [_members(node) for node in nodes],
            }
        )

    async def act(self, request: Request) -> Response:
        """Ask a node to drain, or to take part again."""
        query(request)
        asked = await body(request, "action", "name")
        action, name = asked.get("action"), asked.get("name")
        if action not in _ACTIONS:
            raise bad_request(f"action is one of {', '.join(_ACTIONS)}")
        if not isinstance(name, str):
            raise bad_request("name is the name of a node")
        shared = self._control.shared
        if shared is None:
            raise Problem(409, "not-shared", "this queue is not shared: its one node is the server itself")
        if not await shared.set_draining(name, _ACTIONS[action]):
            raise await _no_such_node(shared, name)
        self._control.log.info("web.node", action=action, node=name)
        return JsonAnswer({"schema": 1, "name": name, "action": action, "draining": _ACTIONS[action]})


async def _no_such_node(shared: SharedStore, name: str) -> Problem:
    names = [node.owner for node in await shared.nodes()]
    near = next(iter(difflib.get_close_matches(name, names, n=1)), None)
    hint = f"; did you mean {near}?" if near else ""
    return Problem(404, "no-such-node", f"no node has this name{hint}", suggestion=near)


def _members(node: Node) -> dict[str, object]:
    return {
        "name": node.owner,
        "alive": node.lease_left > 0,
        "lease_left": round(node.lease_left, 3),
        "draining": node.is_draining,
        "mails": node.mails,
    }
