"""Which listeners a configuration asks for, with the names that they go by.

What is not here: sockets (`net`).
"""

import attrs

from elemta.config.sections import Config, ListenerSection
from elemta.config.tls import TlsMode

#: Where TLS is spoken from the first octet in dev mode, unless `tls.listen_addr` names another than its default: for
#: this machine alone, since dev mode takes mail from anyone, at a port that needs no privilege.
DEV_TLS_ADDRESS = "127.0.0.1:2465"

_DEFAULT_TLS_ADDRESS = ":465"


def asked_listeners(config: Config) -> tuple[ListenerSection, ...]:
    """Every listener the configuration asks for: its list, or `listen_addr` and, with TLS, `tls.listen_addr`."""
    if config.listeners:
        return config.listeners
    auth, required = config.auth.enabled, config.auth.required
    starttls = TlsMode.STARTTLS if config.tls.enabled and config.tls.enable_starttls else TlsMode.NONE
    asked = [ListenerSection(address=config.listen_addr, tls=starttls, auth=auth, auth_required=required)]
    if config.tls.enabled:
        address = tls_address(config)
        asked.append(ListenerSection(address=address, tls=TlsMode.IMPLICIT, auth=auth, auth_required=required))
    return tuple(asked)


def tls_address(config: Config) -> str:
    """Where TLS is spoken from the first octet when `listeners` is left out."""
    address = config.tls.listen_addr
    return DEV_TLS_ADDRESS if config.dev_mode and address == _DEFAULT_TLS_ADDRESS else address


def effective_listeners(config: Config) -> tuple[ListenerSection, ...]:
    """The listeners that are served, each with a name."""
    return tuple(
        attrs.evolve(
            listener,
            name=listener.name or listener.address,
            auth_required=listener.auth_required or (listener.auth and config.auth.required),
        )
        for listener in asked_listeners(config)
    )
