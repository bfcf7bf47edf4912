"""What failures of the network mean that both drivers pass on as they are.

What is not here: a server's own errors (`faults`).
"""

import socket
import ssl

from elemta.datasource.faults import Fault, FaultKind

CERTIFICATE = "name the authority's certificate with sslrootcert=PATH in the dsn, and the host as the certificate does"
NOBODY = "start the server, or check host and port in the dsn"
NO_TLS = "the server offers no TLS: turn it on there, or say sslmode=disable in the dsn if the network is trusted"


def network_fault(error: BaseException) -> Fault:
    """What an `OSError`, an `ssl.SSLError` or an early end of the stream means."""
    match error:
        case ssl.SSLCertVerificationError():
            return Fault(FaultKind.UNUSABLE, getattr(error, "verify_message", None) or str(error), CERTIFICATE)
        case ssl.SSLError() if getattr(error, "reason", None) == "WRONG_VERSION_NUMBER":  # it spoke on without TLS
            return Fault(FaultKind.UNUSABLE, "no encryption", NO_TLS)
        case ssl.SSLError():
            return Fault(FaultKind.LOST, f"TLS failed: {getattr(error, 'reason', None) or error}")
        case socket.gaierror():
            return Fault(FaultKind.AWAY, f"its name does not resolve: {error.strerror}", "check the host in the dsn")
        case ConnectionRefusedError() | FileNotFoundError():
            return Fault(FaultKind.AWAY, "nobody listens there", NOBODY)
        case PermissionError():
            return Fault(
                FaultKind.UNUSABLE, "no right to open its socket", "let Elemta's user into the socket's folder"
            )
        case ConnectionError() if "rejected SSL upgrade" in str(error):
            return Fault(FaultKind.UNUSABLE, "no encryption", NO_TLS)
        case OSError() if not error.errno and "Connect call failed" in str(
            error
        ):  # one text for all addresses of a name
            return Fault(FaultKind.AWAY, "nobody listens at any of its addresses", NOBODY)
        case OSError() if error.strerror:
            return Fault(FaultKind.LOST, f"the connection broke: {error.strerror}")
    return Fault(FaultKind.LOST, f"the connection broke: {error}")
