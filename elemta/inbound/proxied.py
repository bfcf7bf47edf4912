"""Decides which proxies are believed, then waits for what they tell.

What is not here: the header's form (`net.proxy`), or what happens to the client behind it (`inbound.service`).
Whoever is no trusted proxy is closed without a word, header or not: at such a listener no address of a connection says
who its client is, so that there is nobody to decide about. Failures raised: none.
"""

import enum
from collections import Counter
from typing import Final

import trio
from structlog.typing import FilteringBoundLogger

from elemta.inbound.options import ListenerOptions
from elemta.net.base import Stream
from elemta.net.proxied import ProxiedStream, ProxyLeft, receive_header
from elemta.net.proxy import BadProxyHeader
from elemta.observe.metrics import Metrics

#: Seconds for the whole header. A proxy sends it with its first octets; the document (§2) asks for 3 at least, so that
#: a lost segment is sent again.
HEADER_SECONDS: Final = 5.0
#: Headers awaited at once over all listeners; each is a connection that no limit on clients counts yet.
MAX_AWAITED_HEADERS: Final = 1000
#: Seconds between two log lines about refusals of one kind.
REFUSAL_LOG_SECONDS: Final = 10.0


class Refusal(enum.Enum):
    """Why a connection is closed; the value says how to mend it."""

    STRANGER = "name it in proxy_protocol if it is a proxy of yours; other clients need a listener without"
    TOO_MANY = "look at the proxy: it opens connections faster than it tells whose they are"
    LATE = "have the proxy send the PROXY protocol, in its checks too"
    BAD = "have the proxy send version 1 or 2 of the PROXY protocol before anything else"


class ProxyDoor:
    """The way in for connections that proxies pass on."""

    def __init__(self, log: FilteringBoundLogger, metrics: Metrics) -> None:
        self._log = log
        self._metrics = metrics
        self._awaited = 0
        self._refused: Counter[Refusal] = Counter()
        self._next_log: dict[Refusal, float] = {}

    def admit(self, stream: Stream, listener: ListenerOptions) -> bool:
        """Whether `receive` is to be called for this connection; it is closed when not."""
        if not listener.believes(stream.peer.host):
            self._refuse(stream, listener, Refusal.STRANGER, "this peer is no trusted proxy")
        elif self._awaited >= MAX_AWAITED_HEADERS:
            self._refuse(stream, listener, Refusal.TOO_MANY, "too many headers are awaited")
        else:
            self._awaited += 1
            return True
        stream.abort()
        return False

    async def receive(self, stream: Stream, listener: ListenerOptions) -> ProxiedStream | None:
        """The client's connection; None when the header did not come, and then it is closed."""
        proxied = None
        try:
            with trio.move_on_after(HEADER_SECONDS):
                proxied = await receive_header(stream)
            if proxied is None:
                self._refuse(stream, listener, Refusal.LATE, f"no header within {HEADER_SECONDS:g} s")
        except BadProxyHeader as error:
            self._refuse(stream, listener, Refusal.BAD, str(error))
        except (ProxyLeft, trio.BrokenResourceError):
            # What balancers do every few seconds to see whether the port is open. Not worth a line each time.
            self._log.debug("proxy.left", listener=listener.name, peer=str(stream.peer))
        except Exception:
            # A defect of ours ends one connection; see `InboundService`.
            self._log.exception("proxy.failed", listener=listener.name, peer=str(stream.peer))
            self._metrics.connection_errors.labels(cause="defect").inc()
        finally:
            self._awaited -= 1
            if proxied is None:
                stream.abort()
        return proxied

    def _refuse(self, stream: Stream, listener: ListenerOptions, refusal: Refusal, cause: str) -> None:
        """Count it, and say so now and then: a line for each would be what a flood is after."""
        self._metrics.connection_errors.labels(cause="proxy").inc()
        self._refused[refusal] += 1
        now = trio.current_time()
        if now < self._next_log.get(refusal, now):
            return
        self._next_log[refusal] = now + REFUSAL_LOG_SECONDS
        self._log.warning(
            "proxy.refused",
            listener=listener.name,
            peer=str(stream.peer),
            cause=cause,
            refused=self._refused.pop(refusal),
            remedy=refusal.value,
        )
