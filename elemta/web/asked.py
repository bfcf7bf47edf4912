"""What a request asks for, checked.

Query parameters and JSON bodies are held to what a page knows: an unknown or misspelt member is refused, because a
filter that is silently dropped would turn "these" into "all". What is not here: what is done about it.
Failure raised: `Problem` with status 400 or 413.
"""

import difflib
from collections.abc import Collection, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any

import orjson
from starlette.requests import Request

from elemta.mail.ids import ID_CHARACTERS, is_queue_id
from elemta.storage.base import Filter
from elemta.storage.records import QueueState
from elemta.web.problems import Problem, bad_request

#: Octets of a request's body: a thousand ids with their quotes are 25,000.
BODY_OCTETS = 64 * 1024
#: Octets of an address in a filter: a path, RFC 5321 §4.5.3.1.3, with room for quotes.
ADDRESS_CHARACTERS = 512

#: Members of a filter.
FILTER_NAMES = ("state", "sender", "recipient", "destination", "received_before")

#: The original wrote both.
_STATES = {state.value: state for state in QueueState} | {"hold": QueueState.HELD}


def known_only(given: Collection[str], known: Collection[str]) -> None:
    """Refuse members that a page does not know."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise bad_request(f"this page takes {', '.join(known) or 'no parameters'}, not what was given{hint}")


def query(request: Request, *known: str) -> dict[str, str]:
    """The query parameters, each given at most once; `state` may be repeated and is joined by commas."""
    known_only(request.query_params.keys(), known)
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in found and name != "state":
            raise bad_request(f"{name} is given more than once")
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def whole(text: str, name: str, *, least: int, most: int) -> int:
    """A whole number in its bounds."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and least <= int(text) <= most):
        raise bad_request(f"{name} is a whole number from {least} to {most}")
    return int(text)


def queue_id(text: str, name: str = "id") -> str:
    """A queue id, or the cursor that is one."""
    if not is_queue_id(text):
        raise bad_id(name)
    return text


def bad_id(name: str) -> Problem:
    """The problem of a text that is no id."""
    return Problem(400, "bad-id", f"{name} is no queue id: those are {ID_CHARACTERS} letters and digits")


async def body(request: Request, *known: str) -> dict[str, Any]:
    """The JSON object in the body, at most `BODY_OCTETS` of it."""
    octets = bytearray()
    async with aclosing(request.stream()) as pieces:
        async for piece in pieces:
            octets += piece
            if len(octets) > BODY_OCTETS:
                raise Problem(413, "too-large", f"a request has at most {BODY_OCTETS} octets")
    try:
        found = orjson.loads(octets)
    except orjson.JSONDecodeError:
        raise bad_request("the body is not JSON") from None
    if not isinstance(found, dict):
        raise bad_request("the body is not a JSON object")
    known_only(found, known)
    return found


def filter_of(given: Mapping[str, object]) -> Filter:
    """The filter that the members `FILTER_NAMES` say; texts, and a list of texts for `state`."""
    known_only(given, FILTER_NAMES)
    return Filter(
        states=_states(given.get("state")),
        sender=_address(given, "sender"),
        recipient=_address(given, "recipient"),
        destination=_text(given, "destination"),
        received_before=_moment(given.get("received_before")),
    )


def narrows(chosen: Filter) -> bool:
    """False for a filter that leaves every mail of its time."""
    return chosen != Filter(received_before=chosen.received_before)


def _states(given: object) -> frozenset[QueueState] | None:
    if given is None:
        return None
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise bad_request("state is a text or a list of texts")
    wanted = [name.strip().lower() for name in names]
    if not wanted or any(name not in _STATES for name in wanted):
        raise bad_request(f"state is one or more of {', '.join(_STATES)}")
    return frozenset(_STATES[name] for name in wanted)


def _text(given: Mapping[str, object], name: str) -> str | None:
    text = given.get(name)
    if text is None:
        return None
    if not isinstance(text, str) or len(text) > ADDRESS_CHARACTERS or not text.isprintable():
        raise bad_request(f"{name} is a text of at most {ADDRESS_CHARACTERS} printable characters")
    return text


def _address(given: Mapping[str, object], name: str) -> str | None:
    """An address, `@domain`, or `<>` for the null reverse-path, which the store knows as an empty text."""
    text = _text(given, name)
    if text is None or text == "<>":
        return text and ""
    bare = text[1:-1] if text.startswith("<") and text.endswith(">") else text
    if "@" not in bare and bare.lower() != "postmaster":
        raise bad_request(f"{name} is an address, a domain with @ before it, or <>")
    return bare


def _moment(given: object) -> float | None:
    if given is None:
        return None
    try:
        found = datetime.fromisoformat(given if isinstance(given, str) else "")
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise bad_request("received_before is a time with its offset, as in RFC 3339 §5.6")
    return found.timestamp()
