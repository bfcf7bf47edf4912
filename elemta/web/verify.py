"""The pages that look whether the queue is whole.

One request reads a bounded number of mails and octets, one piece at a time, so that a server that runs meanwhile goes
on serving. What is not here: what a store finds odd about itself (`QueueStore.inspect`).
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from elemta.queue.wholeness import check_content
from elemta.storage.base import ContentMissing, Filter
from elemta.storage.records import QueuedMail
from elemta.web.answers import JsonAnswer
from elemta.web.asked import query, queue_id, whole
from elemta.web.control import Control

#: Mails of one request, and how many it has when nobody says.
VERIFY_MAILS = 1000
DEFAULT_VERIFY_MAILS = 200
#: Octets of content after which a request ends: a fraction of a second on a slow disk.
VERIFY_OCTETS = 16 * 1024 * 1024


class VerifyPages:
    """`store/verify`, `store/findings`."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/store/verify", self.verify, methods=["GET"]),
            Route("/store/findings", self.findings, methods=["GET"]),
        ]

    async def verify(self, request: Request) -> Response:
        """Read the content of mails in order of id; `next` is the `after` of the next request, null at the end."""
        asked = query(request, "limit", "after")
        limit = whole(asked.get("limit", str(DEFAULT_VERIFY_MAILS)), "limit", least=1, most=VERIFY_MAILS)
        after = queue_id(asked["after"], "after") if asked.get("after") else ""
        page = await self._control.queue.list(Filter(), limit, after)
        found = _Found()
        for mail in page:
            await self._look(mail, found)
            if found.octets >= VERIFY_OCTETS:
                break
        more = found.checked < len(page) or len(page) == limit
        return JsonAnswer(
            {
                "schema": 1,
                "checked": found.checked,
                "octets": found.octets,
                "without_digest": found.without_digest,
                "damaged": found.damaged,
                "next": page[found.checked - 1].id if more else None,
            }
        )

    async def _look(self, mail: QueuedMail, found: "_Found") -> None:
        found.checked += 1
        if mail.content.id in found.seen:
            return
        found.seen.add(mail.content.id)
        found.without_digest += not mail.content.digest
        try:
            await check_content(mail.content, self._control.queue.read_content)
            found.octets += mail.content.size
        except ContentMissing as error:
            # It may just have been delivered.
            if await self._control.queue.get(mail.id) is not None:
                found.seen.discard(mail.content.id)
                found.damage(mail, str(error))

    async def findings(self, request: Request) -> Response:
        """What the store finds odd about itself."""
        query(request)
        found = await self._control.store.inspect()
        return JsonAnswer({"schema": 1, "findings": [{"where": each.where, "what": each.what} for each in found]})


class _Found:
    """What one request came upon. Content that mails share is read once."""

    def __init__(self) -> None:
        self.checked = 0
        self.octets = 0
        self.without_digest = 0
        self.damaged: list[dict[str, Any]] = []
        self.seen: set[str] = set()

    def damage(self, mail: QueuedMail, what: str) -> None:
        self.damaged.append({"id": mail.id, "state": mail.state.value, "what": what})
