"""TLS towards a database server.

What is not here: when it is used (`dsn` decides), or the server's side of TLS.
"""

import ssl

from elemta.datasource.options import DatabaseOptions, Encryption


def client_context(options: DatabaseOptions) -> ssl.SSLContext | None:
    """The context for a connection, None for none.

    Raises `OSError` when the file of trusted certificates cannot be read, `ssl.SSLError` when it holds none.
    """
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
        context.load_verify_locations(cafile=options.roots)
    return context
