"""The two applications of the web room: one for everybody on this machine, one for operators.

What is not here: the pages (`web.health`, `web.queue`, `web.orders`, `web.inbox`), or serving them (`web.serve`).
`public_app` is for TCP and shows nothing of any mail. `control_app` is for the unix socket that only this user may
connect to, which is all its authentication.
"""

from collections.abc import Iterable, Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Router
from starlette.types import ASGIApp
from structlog.typing import FilteringBoundLogger

from elemta.observe.metrics import Metrics
from elemta.web.base import PREFIX, Health, QueueAdmin
from elemta.web.control import Control
from elemta.web.door import Door, HostRule
from elemta.web.health import HealthPages
from elemta.web.inbox import InboxPages
from elemta.web.orders import OrderPages
from elemta.web.problems import HANDLERS
from elemta.web.queue import QueuePages


def public_app(
    health: Health, queue: QueueAdmin, *, metrics: Metrics, hosts: Iterable[str], log: FilteringBoundLogger
) -> ASGIApp:
    """`/livez`, `/readyz`, `/metrics`. `hosts` are the names under which it may be asked, beside those of loopback."""
    pages = HealthPages(health, queue, metrics)
    return Door(_application(pages.routes()), hosts=HostRule(hosts), log=log)


def control_app(control: Control) -> ASGIApp:
    """Everything an operator may do, and the health pages."""
    operators = [
        *QueuePages(control).routes(),
        *OrderPages(control).routes(),
        *InboxPages(control).routes(),
    ]
    health = HealthPages(control.health, control.queue, control.metrics)
    pages = Mount(PREFIX, Router(operators, redirect_slashes=False))
    return Door(_application([pages, *health.routes()]), hosts=None, log=control.log)


def _application(routes: Sequence[BaseRoute]) -> Starlette:
    app = Starlette(routes=routes, exception_handlers=HANDLERS)
    # A page has one address; a redirect would name the Host that the client gave.
    app.router.redirect_slashes = False
    return app
