"""The queue's pages: list, one mail, its octets, figures.

What is not here: orders (`web.orders`). Lists are paged by cursor: `next` of one page is `after` of the next, so that a
list is never held whole and survives what changes meanwhile.
"""

import re

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from elemta import __version__
from elemta.mail.ids import ID_CHARACTERS, TIME_CHARACTERS, is_queue_id
from elemta.storage.base import Filter
from elemta.storage.records import ContentRef, QueueState
from elemta.web.answers import ContentAnswer, JsonAnswer, encode
from elemta.web.asked import FILTER_NAMES, bad_id, filter_of, query, queue_id, whole
from elemta.web.base import QueueAdmin
from elemta.web.control import Control
from elemta.web.problems import Problem
from elemta.web.records import gone_details, mail_details, mail_members, moment
from elemta.web.workers import Figures

#: Mails on one page, and how many it has when nobody says.
PAGE_MAILS = 1000
DEFAULT_PAGE_MAILS = 100
#: Octets after which a page ends early: a mail may have a thousand recipients.
PAGE_OCTETS = 4 * 1024 * 1024
#: Mails asked of the store at once.
CHUNK_MAILS = 100

#: Fewest characters from which an id is guessed: those that hold its time.
_GUESS_CHARACTERS = TIME_CHARACTERS
_PART_OF_ID = re.compile(rf"[0-9A-Za-z]{{{_GUESS_CHARACTERS},{ID_CHARACTERS + 2}}}", re.ASCII)


class QueuePages:
    """`status`, `queue`, `queue/stats`, `queue/{id}`, `queue/{id}/raw`."""

    def __init__(self, control: Control, figures: Figures) -> None:
        self._control = control
        self._figures = figures
        self._queue = control.queue

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/status", self.status, methods=["GET"]),
            Route("/queue", self.list_mails, methods=["GET"]),
            Route("/queue/stats", self.stats, methods=["GET"]),
            Route("/queue/{id}", self.show, methods=["GET"]),
            Route("/queue/{id}/raw", self.raw, methods=["GET"]),
        ]

    async def status(self, request: Request) -> Response:
        """Who answers, how it is, how much is queued."""
        query(request)
        identity, now = self._control.identity, self._control.clock.wall()
        counts = await self._queue.counts()
        return JsonAnswer(
            {
                "schema": 1,
                "version": __version__,
                "hostname": identity.hostname,
                "running": identity.running,
                "dev_mode": identity.dev_mode,
                "started_at": moment(identity.started_at),
                "now": moment(now),
                "processes": identity.processes,
                **await self._figures.readiness(),
                "queue": {state.value: counts.get(state, 0) for state in QueueState},
            }
        )

    async def stats(self, request: Request) -> Response:
        """The original's figures, totals since the start, and how many mails stand in each state."""
        query(request)
        counts = await self._queue.counts()
        received, delivered, failed = await self._totals("received", "delivered", "failed")
        held = counts.get(QueueState.HELD, 0)
        return JsonAnswer(
            {
                "schema": 1,
                **{f"{state.value}_count": counts.get(state, 0) for state in QueueState},
                "hold_count": held,
                "total_processed": received,
                "total_delivered": delivered,
                "total_failed": failed,
                "last_updated": moment(self._control.clock.wall()),
            }
        )

    async def _totals(self, *kinds: str) -> list[int | None]:
        """Counters of mails since the start; None for a server that does not run."""
        if not self._control.identity.running:
            return [None for _ in kinds]
        found = await self._figures.totals(*(f"elemta_messages_{kind}_total" for kind in kinds))
        return [None if value is None else int(value) for value in found]

    async def list_mails(self, request: Request) -> Response:
        """Mails in order of id, which is their order of arrival."""
        asked = query(request, "limit", "after", *FILTER_NAMES)
        limit = whole(asked.pop("limit", str(DEFAULT_PAGE_MAILS)), "limit", least=1, most=PAGE_MAILS)
        after = asked.pop("after", "")
        if after:
            queue_id(after, "after")
        page, cursor = await self._page(filter_of(asked), limit, after)
        head = encode({"schema": 1, "next": cursor})[:-1]
        return Response(head + b',"mails":[' + b",".join(page) + b"]}", media_type="application/json")

    async def _page(self, chosen: Filter, limit: int, after: str) -> tuple[list[bytes], str | None]:
        """Encoded mails and the cursor of the next page, None when there is none."""
        now, running = self._control.clock.wall(), self._control.identity.running
        page: list[bytes] = []
        octets = 0
        while len(page) < limit:
            wanted = min(CHUNK_MAILS, limit - len(page))
            mails = await self._queue.list(chosen, wanted, after)
            for mail in mails:
                page.append(encode(mail_members(mail, now=now, running=running)))
                after = mail.id
                octets += len(page[-1])
                if octets > PAGE_OCTETS:
                    return page, after
            if len(mails) < wanted:
                return page, None
        return page, after

    async def show(self, request: Request) -> Response:
        """One mail with its recipients, attempts, reasons. One that left the queue keeps its attempts for a while."""
        query(request)
        wanted = await known_id(self._queue, request.path_params["id"])
        mail = await self._queue.get(wanted)
        attempts = await self._queue.attempts(wanted)
        now, running = self._control.clock.wall(), self._control.identity.running
        if mail is not None:
            return JsonAnswer({"schema": 1, **mail_details(mail, attempts, now=now, running=running)})
        if not attempts:
            raise await no_such_mail(self._queue, wanted)
        return JsonAnswer({"schema": 1, **gone_details(wanted, attempts)})

    async def raw(self, request: Request) -> Response:
        """The content as it is queued: what was received, with our trace fields."""
        query(request)
        wanted = await known_id(self._queue, request.path_params["id"])
        mail = await self._queue.get(wanted)
        if mail is None:
            raise await no_such_mail(self._queue, wanted)
        ref: ContentRef = mail.content

        async def read(offset: int, limit: int) -> bytes:
            return await self._queue.read_content(ref, offset, limit)

        return ContentAnswer(request, ref.size, read)


async def known_id(queue: QueueAdmin, text: str) -> str:
    """The text when it has the form of an id; else the problem that says so, with the id it may have been cut from."""
    if is_queue_id(text):
        return text
    if _PART_OF_ID.fullmatch(text):
        raise await no_such_mail(queue, text)
    raise bad_id("this")


async def no_such_mail(queue: QueueAdmin, text: str) -> Problem:
    """The problem of an id that names no mail, with the one that shares the longest beginning."""
    near = await _nearest(queue, text)
    hint = f"; did you mean {near}?" if near else ""
    return Problem(404, "no-such-mail", f"there is no mail {text} in the queue{hint}", suggestion=near)


async def _nearest(queue: QueueAdmin, text: str) -> str | None:
    """Ids are ordered, so the first one after a prefix has that prefix, if any has: one small question a length."""
    for length in range(min(len(text), ID_CHARACTERS - 1), _GUESS_CHARACTERS - 1, -1):
        prefix = text[:length]
        found = await queue.list(Filter(), 1, prefix)
        if found and found[0].id.startswith(prefix):
            return found[0].id
    return None
