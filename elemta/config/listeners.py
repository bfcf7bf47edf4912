"""Which listeners a configuration asks for, which of them can be served.

What is not here: sockets (`net`). Until TLS is built, a listener that speaks it from the first octet is not served, and
one that would offer STARTTLS or AUTH is served without; outside dev mode `config.checks` refuses to start instead.
"""

import attrs

from elemta.config.sections import Config, ListenerSection
from elemta.config.tls import TlsMode


def asked_listeners(config: Config) -> tuple[ListenerSection, ...]:
    """Every listener the configuration asks for: its list, or `listen_addr` and, with TLS, `tls.listen_addr`."""
    if config.listeners:
        return config.listeners
    starttls = TlsMode.STARTTLS if config.tls.enabled else TlsMode.NONE
    auth = config.auth.enabled
    asked = [ListenerSection(address=config.listen_addr, tls=starttls, auth=auth, auth_required=config.auth.required)]
    if config.tls.enabled:
        asked.append(
            ListenerSection(
                address=config.tls.listen_addr,
                tls=TlsMode.IMPLICIT,
                auth=auth,
                auth_required=config.auth.required,
            )
        )
    return tuple(asked)


def effective_listeners(config: Config) -> tuple[ListenerSection, ...]:
    """The listeners that are served, each with a name."""
    return tuple(
        attrs.evolve(
            listener,
            name=listener.name or listener.address,
            tls=TlsMode.NONE,
            auth=False,
            auth_required=False,
        )
        for listener in asked_listeners(config)
        if listener.tls is not TlsMode.IMPLICIT
    )
