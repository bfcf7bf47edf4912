"""The pages of dev mode's inbox: list, one mail, its octets, waiting for one, removing.

What is not here: what is kept and for how long (`storage.inbox`).
"""

from collections.abc import Callable

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from elemta.mail.inbox import InboxEntry
from elemta.web.answers import ContentAnswer, JsonAnswer
from elemta.web.asked import query, queue_id, whole
from elemta.web.base import Inbox
from elemta.web.control import Control
from elemta.web.problems import Problem, bad_request
from elemta.web.records import moment

#: Mails on one page, and how many it has when nobody says.
PAGE_MAILS = 1000
DEFAULT_PAGE_MAILS = 100
#: Seconds that one request waits; who waits longer asks again.
WAIT_SECONDS = 60


class InboxPages:
    """`inbox`, `inbox/wait`, `inbox/{id}`, `inbox/{id}/raw`."""

    def __init__(self, control: Control) -> None:
        self._control = control

    @property
    def _inbox(self) -> Inbox:
        inbox = self._control.inbox
        if inbox is None:
            raise Problem(404, "no-inbox", "this server keeps no inbox")
        return inbox

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/inbox", self.list_mails, methods=["GET"]),
            Route("/inbox", self.clear, methods=["DELETE"]),
            Route("/inbox/wait", self.wait, methods=["GET"]),
            Route("/inbox/{id}", self.show, methods=["GET"]),
            Route("/inbox/{id}", self.delete, methods=["DELETE"]),
            Route("/inbox/{id}/raw", self.raw, methods=["GET"]),
        ]

    async def list_mails(self, request: Request) -> Response:
        """The newest first; `next` of one page is `before` of the one after it."""
        asked = query(request, "limit", "before")
        limit = whole(asked.get("limit", str(DEFAULT_PAGE_MAILS)), "limit", least=1, most=PAGE_MAILS)
        before = queue_id(asked["before"], "before") if asked.get("before") else None
        found = await self._inbox.list(limit, before)
        cursor = found[-1].id if len(found) == limit else None
        return JsonAnswer({"schema": 1, "next": cursor, "mails": [entry_members(entry) for entry in found]})

    async def show(self, request: Request) -> Response:
        """One mail's envelope and figures."""
        query(request)
        return JsonAnswer({"schema": 1, **entry_members(await self._entry(request))})

    async def raw(self, request: Request) -> Response:
        """The octets as the server accepted them."""
        query(request)
        inbox = self._inbox
        entry = await self._entry(request)

        async def read(offset: int, limit: int) -> bytes:
            return await inbox.raw(entry.id, offset, limit)

        return ContentAnswer(request, entry.size, read)

    async def _entry(self, request: Request) -> InboxEntry:
        wanted = queue_id(request.path_params["id"])
        entry = await self._inbox.get(wanted)
        if entry is None:
            raise Problem(404, "no-such-mail", f"there is no mail {wanted} in the inbox")
        return entry

    async def delete(self, request: Request) -> Response:
        """Remove one mail."""
        query(request)
        entry = await self._entry(request)
        return JsonAnswer({"schema": 1, "deleted": await self._inbox.delete([entry.id])})

    async def clear(self, request: Request) -> Response:
        """Remove all mails; `all=true` must be said."""
        if query(request, "all").get("all") != "true":
            raise bad_request("to remove every mail say all=true")
        return JsonAnswer({"schema": 1, "deleted": await self._inbox.clear()})

    async def wait(self, request: Request) -> Response:
        """The first mail that matches, as soon as it is there; 408 when none came in `timeout` seconds.

        `to` and `from` are an address, or a domain with @ before it; `subject` is a part of the subject; case does not
        matter. `after` is an id: only what arrived after it counts.
        """
        asked = query(request, "timeout", "to", "from", "subject", "after")
        seconds = whole(asked.pop("timeout", "10"), "timeout", least=1, most=WAIT_SECONDS)
        after = queue_id(asked.pop("after"), "after") if "after" in asked else None
        found: InboxEntry | None = None
        failure: OSError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, request, nursery.cancel_scope)
            try:
                with trio.move_on_after(seconds):
                    found = await self._inbox.wait_for(matcher(asked), after)
            except OSError as error:
                failure = error  # raised outside, where no group is made of it
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if found is None:
            raise Problem(408, "no-mail-came", f"no such mail came in {seconds} seconds")
        return JsonAnswer({"schema": 1, **entry_members(found)})


async def _cancel_when_gone(request: Request, scope: trio.CancelScope) -> None:
    """Nobody waits for an answer whose client has left."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            scope.cancel()
            return


def matcher(asked: dict[str, str]) -> Callable[[InboxEntry], bool]:
    """What tells the mails with this `to`, `from`, `subject` from others."""
    to, sender, subject = (asked.get(name, "").lower() for name in ("to", "from", "subject"))

    def matches(entry: InboxEntry) -> bool:
        return (
            (not to or any(_is_meant(to, path) for path in entry.forward_paths))
            and (not sender or _is_meant(sender, entry.reverse_path or "<>"))
            and subject in entry.subject.lower()
        )

    return matches


def _is_meant(wanted: str, address: str) -> bool:
    address = address.lower()
    return address.endswith(wanted) if wanted.startswith("@") else address == wanted


def entry_members(entry: InboxEntry) -> dict[str, object]:
    """A mail of the inbox as members of a JSON object."""
    return {
        "id": entry.id,
        "reverse_path": entry.reverse_path,
        "forward_paths": entry.forward_paths,
        "subject": entry.subject,
        "size": entry.size,
        "received_at": moment(entry.received_at),
    }
