"""Orders of an operator: retry, hold, release, delete.

One request works on at most `ORDER_MAILS` mails and answers with the cursor from where to go on, so that an order for a
million mails never holds the store for long. What is not here: what an order does to a mail (`storage.rules`).
"""

from collections.abc import Sequence
from typing import Any

import attrs
from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from elemta.storage.base import Filter, Order, Verb
from elemta.storage.records import QueuedMail, QueueState
from elemta.storage.rules import STATES_OF_VERB, takes
from elemta.web.answers import JsonAnswer
from elemta.web.asked import body, filter_of, narrows, query, queue_id
from elemta.web.control import Control
from elemta.web.problems import bad_request
from elemta.web.records import mail_members, moment

#: Mails of one request, named by ids or by a filter: each may have a thousand recipients.
ORDER_MAILS = 250
#: Characters of a reason: a line of a table.
REASON_CHARACTERS = 500
#: Mails that a dry run shows.
SAMPLE_MAILS = 3

_MEMBERS = ("action", "ids", "filter", "all", "reason", "dry_run", "after")


@frozen
class Asked:
    """An order as a request gives it. `ids` is None where a filter names the mails."""

    order: Order
    ids: tuple[str, ...] | None
    after: str
    dry_run: bool


@frozen
class Done:
    """What became of the mails of one request; `next` is the cursor, None at the end."""

    page: Sequence[QueuedMail]
    changed: tuple[str, ...]
    in_flight: tuple[str, ...]
    unknown: tuple[str, ...]
    next: str | None


class OrderPages:
    """`POST queue/actions`."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._queue = control.queue

    def routes(self) -> list[Route]:
        """Where it is."""
        return [Route("/queue/actions", self.act, methods=["POST"])]

    async def act(self, request: Request) -> Response:
        """Carry out one order, or with `dry_run` say what it would do."""
        query(request)
        asked = read_order(await body(request, *_MEMBERS), self._control.clock.wall())
        done = await self._carry_out(asked)
        return JsonAnswer(self._members(asked, done))

    async def _carry_out(self, asked: Asked) -> Done:
        order = asked.order
        limit = order.limit
        # No state is left when the filter wants what the verb never takes.
        page = await self._queue.list(order.filter, limit, asked.after) if order.filter.states != frozenset() else ()
        found = {mail.id for mail in page}
        unknown = tuple(each for each in asked.ids or () if each not in found)
        cursor = page[-1].id if asked.ids is None and len(page) == limit else None
        if asked.dry_run:
            taken = [mail for mail in page if takes(order, mail)]
            changed = tuple(mail.id for mail in taken if mail.attempting_since is None)
            in_flight = tuple(mail.id for mail in taken if mail.attempting_since is not None)
        elif page:
            # By the ids of this page, and still by every term: what changed since is judged anew.
            chosen = attrs.evolve(order.filter, ids=frozenset(found))
            ordered = await self._queue.apply(attrs.evolve(order, filter=chosen))
            changed, in_flight = ordered.changed, ordered.in_flight
        else:
            changed = in_flight = ()
        return Done(page, changed, in_flight, unknown, cursor)

    def _members(self, asked: Asked, done: Done) -> dict[str, object]:
        order = asked.order
        touched = {*done.changed, *done.in_flight}
        answer: dict[str, object] = {
            "schema": 1,
            "action": order.verb.value,
            "dry_run": asked.dry_run,
            "changed": done.changed,
            "in_flight": done.in_flight,
            "skipped": [_skipped(order, mail) for mail in done.page if mail.id not in touched],
            "unknown": done.unknown,
            "next": done.next,
            "now": moment(order.now),
        }
        if asked.dry_run:
            running = self._control.identity.running
            shown = [mail for mail in done.page if mail.id in done.changed][:SAMPLE_MAILS]
            answer["samples"] = [mail_members(mail, now=order.now, running=running) for mail in shown]
        return answer


def _skipped(order: Order, mail: QueuedMail) -> dict[str, object]:
    """A mail that an order leaves alone; `already`: it is as the order wants it."""
    already = {
        Verb.RETRY: mail.state in {QueueState.ACTIVE, QueueState.DEFERRED},
        Verb.HOLD: mail.state is QueueState.HELD,
        Verb.RELEASE: mail.state in {QueueState.ACTIVE, QueueState.DEFERRED},
        Verb.DELETE: False,
    }
    return {"id": mail.id, "state": mail.state.value, "already": already[order.verb]}


def read_order(given: dict[str, Any], now: float) -> Asked:
    """The order that a body says. Raises `Problem`."""
    verb = _verb(given.get("action"))
    ids, chosen = _chosen(given)
    if ids is None:
        # Only what the verb can take is looked at.
        wanted = STATES_OF_VERB[verb] if chosen.states is None else chosen.states & STATES_OF_VERB[verb]
        chosen = attrs.evolve(chosen, states=wanted)
    after = given.get("after") or ""
    if after:
        queue_id(str(after), "after")
    limit = ORDER_MAILS if ids is None else len(ids)
    order = Order(verb, chosen, now=now, limit=limit, reason=_reason(given.get("reason"), verb))
    return Asked(order, ids, str(after), _flag(given, "dry_run"))


def _verb(given: object) -> Verb:
    try:
        return Verb(given)
    except ValueError:
        raise bad_request(f"action is one of {', '.join(verb.value for verb in Verb)}") from None


def _chosen(given: dict[str, Any]) -> tuple[tuple[str, ...] | None, Filter]:
    """The ids or the filter. Neither is never taken for all."""
    every = _flag(given, "all")
    criteria = given.get("filter", {})
    if not isinstance(criteria, dict):
        raise bad_request("filter is an object")
    chosen = filter_of(criteria)
    ids = _ids(given["ids"]) if "ids" in given else None
    if (ids is not None) + narrows(chosen) + every != 1:
        raise bad_request('give one of "ids", a "filter" that narrows, or "all": true')
    if ids is not None:
        return ids, attrs.evolve(chosen, ids=frozenset(ids))
    return None, chosen


def _ids(given: object) -> tuple[str, ...]:
    if not isinstance(given, list) or not 1 <= len(given) <= ORDER_MAILS:
        raise bad_request(f"ids is a list of 1 to {ORDER_MAILS} queue ids")
    return tuple(dict.fromkeys(queue_id(each if isinstance(each, str) else "", "each of ids") for each in given))


def _reason(given: object, verb: Verb) -> str:
    if given is None or given == "":
        return ""
    if verb is not Verb.HOLD:
        raise bad_request("a reason is kept with a held mail alone")
    if not isinstance(given, str) or len(given) > REASON_CHARACTERS or not given.isprintable():
        raise bad_request(f"reason is a text of at most {REASON_CHARACTERS} printable characters")
    return given


def _flag(given: dict[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise bad_request(f"{name} is true or false")
    return value
