"""TLS towards a database server.

What is not here: when it is used (`dsn` decides), or the server's side of TLS.
"""

import ssl

from elemta.datasource.options import DatabaseOptions, Encryption


def client_context(options: DatabaseOptions) -> ssl.SSLContext | None:
    """The context for connections, None for none. Raises `ValueError` when the trusted certificates cannot be read."""
    if options.encryption is Encryption.DISABLE:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = options.encryption is Encryption.VERIFY_FULL
    if options.encryption is Encryption.REQUIRE:
        context.verify_mode = ssl.CERT_NONE
    elif options.roots is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(cafile=options.roots)
        except ssl.SSLError:
            raise ValueError(f"sslrootcert: {options.roots} holds no certificate in PEM") from None
        except OSError as error:
            raise ValueError(f"sslrootcert: {options.roots}: {error.strerror}") from None
    return context
