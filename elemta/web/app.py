"""The applications of the web room: one for everybody on this machine, one for operators, one for sibling workers.

What is not here: the pages (`web.health`, `web.queue`, `web.orders`, `web.inbox`), or serving them (`web.serve`).
`public_app` is for TCP and shows nothing of any mail. `control_app` is for the unix socket that only this user may
connect to, which is all its authentication. `sibling_app` is for another such socket, where each of several worker
processes says what it alone does.
"""

from collections.abc import Iterable, Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Router
from starlette.types import ASGIApp

from elemta.web.base import PREFIX
from elemta.web.control import Control
from elemta.web.door import Door, HostRule
from elemta.web.health import HealthPages, QueueSizes
from elemta.web.inbox import InboxPages
from elemta.web.nodes import NodePages
from elemta.web.orders import OrderPages
from elemta.web.problems import HANDLERS
from elemta.web.queue import QueuePages
from elemta.web.verify import VerifyPages
from elemta.web.workers import Figures


def public_app(control: Control, *, hosts: Iterable[str]) -> ASGIApp:
    """`/livez`, `/readyz`, `/metrics`. `hosts` are the names under which it may be asked, beside those of loopback."""
    figures = Figures(control.health, control.metrics, control.siblings)
    pages = HealthPages(figures, QueueSizes(control.queue, control.metrics))
    return Door(_application(pages.routes()), hosts=HostRule(hosts), log=control.log)


def control_app(control: Control) -> ASGIApp:
    """Everything an operator may do, and the health pages."""
    figures = Figures(control.health, control.metrics, control.siblings)
    operators = [
        *QueuePages(control, figures).routes(),
        *OrderPages(control).routes(),
        *InboxPages(control).routes(),
        *NodePages(control).routes(),
        *VerifyPages(control).routes(),
    ]
    health = HealthPages(figures, QueueSizes(control.queue, control.metrics))
    pages = Mount(PREFIX, Router(operators, redirect_slashes=False))
    return Door(_application([pages, *health.routes()]), hosts=None, log=control.log)


def sibling_app(control: Control) -> ASGIApp:
    """The health pages of this worker alone. The queue's sizes are left out: whoever is asked has them as well."""
    pages = HealthPages(Figures(control.health, control.metrics, None), None)
    return Door(_application(pages.routes()), hosts=None, log=control.log)


def _application(routes: Sequence[BaseRoute]) -> Starlette:
    app = Starlette(routes=routes, exception_handlers=HANDLERS)
    # A page has one address; a redirect would name the Host that the client gave.
    app.router.redirect_slashes = False
    return app
