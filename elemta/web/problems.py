"""Errors of the web side as problem documents.

RFC 9457 §3.1: `type` (always about:blank, §4.2.1), `title`, `status`, `detail`; `code` tells problems of one status
apart, further members help programs (`suggestion`). What is not here: which problem a page raises. A detail is a
sentence for people; it never holds octets that a stranger chose, but for ids that were checked.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from elemta.storage.base import ContentMissing, StoreUnavailable
from elemta.web.answers import encode

MEDIA_TYPE = "application/problem+json"

#: Seconds after which it is worth to ask again while the store is away; RFC 9110 §10.2.3.
RETRY_SECONDS = 5


class Problem(Exception):
    """A request that cannot be answered as asked."""

    def __init__(self, status: int, code: str, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.members = members


def bad_request(detail: str) -> Problem:
    """A request that is not of the form that the page takes."""
    return Problem(400, "bad-request", detail)


def response_of(problem: Problem) -> Response:
    """The problem document."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        **problem.members,
    }
    headers = {"retry-after": str(RETRY_SECONDS)} if problem.status == 503 else None
    return Response(encode(document), problem.status, media_type=MEDIA_TYPE, headers=headers)


class _Handler:
    """What Starlette calls for an exception; asynchronous, because it sends plain functions to a thread."""

    def __init__(self, answer: Callable[[Any], Response]) -> None:
        self._answer = answer

    async def __call__(self, _request: Request, error: Exception) -> Response:
        return self._answer(error)


def _of_store(error: Exception) -> Response:
    return response_of(Problem(503, "store-unavailable", str(error) or "the store failed"))


def _of_missing(error: ContentMissing) -> Response:
    return response_of(Problem(410, "content-missing", str(error) or "the content is gone"))


def _of_http(error: HTTPException) -> Response:
    code = {404: "no-such-page", 405: "method-not-allowed"}.get(error.status_code, "refused")
    response = response_of(Problem(error.status_code, code, error.detail))
    response.headers.update(error.headers or {})
    return response


def _of_defect(_error: Exception) -> Response:
    return response_of(Problem(500, "internal-error", "an error that should not happen; the server's log has it"))


#: For `Starlette(exception_handlers=...)`.
HANDLERS: dict[Any, Any] = {
    Problem: _Handler(response_of),
    StoreUnavailable: _Handler(_of_store),
    OSError: _Handler(_of_store),  # of the inbox
    ContentMissing: _Handler(_of_missing),
    HTTPException: _Handler(_of_http),
    Exception: _Handler(_of_defect),
}
