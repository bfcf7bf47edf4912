"""The certificates that are served at one time, with the choice among them by name.

What is not here: handshakes (`tls.server`), or what is in a certificate (`tls.certificates`). RFC 6066 §3 for the name
that a client asks for, RFC 9525 §6.3 for wildcards. Failure raised: `TlsUnusable`, and then nothing of it is served.
"""

import os
import ssl
from collections.abc import Mapping, Sequence

from attrs import field, frozen

from elemta.tls.contexts import ContextOptions, load_pair, server_context
from elemta.tls.stream import BoundContext


@frozen
class CertificateFiles:
    """Where a certificate lies; both may be one file. `awaited`: it need not be there yet, for it is being ordered."""

    cert_file: str
    key_file: str
    awaited: bool = False


@frozen
class Served:
    """What is said of a certificate that is served; times are UTC in seconds since 1970."""

    name: str
    names: tuple[str, ...]
    begins: float
    until: float
    fingerprint: str
    warnings: tuple[str, ...]
    context: BoundContext = field(repr=False)


@frozen(eq=False)
class Choice:
    """The certificates, and which names lead to them. Without any nothing can be served."""

    certificates: tuple[Served, ...] = ()
    _exact: Mapping[str, BoundContext] = field(factory=dict)
    #: By what stands behind "*.".
    _wildcards: Mapping[str, BoundContext] = field(factory=dict)

    def context_for(self, name: str) -> ssl.SSLContext:
        """The context of a certificate for `name`, in lower case; the first one's where none is, or for no name.

        A client that asks for a name that we do not have had better see a wrong certificate than none: most mail
        servers do not check it (RFC 7435).
        """
        found = self._exact.get(name) or self._wildcards.get(name.partition(".")[2])
        return found or self.certificates[0].context


def load_choice(files: Sequence[CertificateFiles], options: ContextOptions, *, now: float) -> Choice:
    """Read certificates; it blocks on the disk. `now` is UTC in seconds since 1970. Raises `TlsUnusable`."""
    # Late: `cryptography` takes long to import, and a server without TLS must not pay for it.
    from elemta.tls.certificates import read_certificate

    certificates: list[Served] = []
    exact: dict[str, BoundContext] = {}
    wildcards: dict[str, BoundContext] = {}
    for one in files:
        if one.awaited and not os.path.exists(one.cert_file):
            continue
        read = read_certificate(one.cert_file, one.key_file, now=now)
        context = server_context(options)
        load_pair(context, one.cert_file, one.key_file)
        context.binding = read.binding
        name = read.names[0] if read.names else one.cert_file
        certificates.append(Served(name, read.names, read.begins, read.until, read.fingerprint, read.warnings, context))
        for dns_name in read.names:
            if dns_name.startswith("*."):
                wildcards.setdefault(dns_name[2:], context)
            else:
                exact.setdefault(dns_name, context)
    if not certificates:
        server_context(options)  # what is wrong with the other keys is to be told now, not with the first certificate
    return Choice(tuple(certificates), exact, wildcards)


def stamp(files: Sequence[CertificateFiles], options: ContextOptions) -> tuple[object, ...]:
    """What changes when one of the files is replaced or written to; it blocks on the disk."""
    names = [name for one in files for name in (one.cert_file, one.key_file)]
    if options.client_ca_file is not None:
        names.append(options.client_ca_file)
    return tuple(_stamp(name) for name in names)


def _stamp(name: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(name)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
