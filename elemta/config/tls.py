"""The keys of TLS, ACME included, as frozen classes.

What is not here: what the keys mean together (`config.tls_checks`), or contexts, certificates, authorities (`tls`).
Sources of defaults: the original's documentation for its own keys, RFC 9325 §3.1.1 for the versions.
"""

import enum
from typing import Annotated

from attrs import field, frozen

from elemta.config.kinds import (
    About,
    Amount,
    Bool,
    Choice,
    Domain,
    DomainPattern,
    Host,
    ListenAddr,
    Mailbox,
    Port,
    Seconds,
    Secret,
    Whole,
    Words,
)


class TlsMode(enum.Enum):
    """How a listener speaks TLS."""

    NONE = "none"
    STARTTLS = "starttls"
    IMPLICIT = "implicit"


class ClientCertificates(enum.Enum):
    """Whether clients are asked for a certificate in the handshake."""

    NONE = "none"
    REQUEST = "request"
    REQUIRE = "require"


#: The original's words for versions, and others that people write.
Version = Annotated[
    str,
    Choice(
        ("tls1.2", "tls1.3"),
        {"1.2": "tls1.2", "1.3": "tls1.3", "TLSv1.2": "tls1.2", "TLSv1.3": "tls1.3", "TLS1.2": "tls1.2"},
    ),
]
Days = Annotated[float, Amount("days", 0.0, 3650.0)]


@frozen
class CertificateSection:
    """One certificate more, chosen by the name that the client asks for (SNI, RFC 6066 §3)."""

    cert_file: Annotated[Words, About("The certificate with its chain, PEM.")]
    key_file: Annotated[Words, About("The private key, PEM.")]


@frozen
class DnsUpdateSection:
    """Where the records of dns-01 are written: RFC 2136 updates, signed by TSIG (RFC 8945)."""

    server: Annotated[Host | None, About("The primary name server that takes updates.")] = None
    port: Annotated[Port, About("Its port.")] = 53
    zone: Annotated[Domain | None, About("The zone to update; found by its SOA record when left out.")] = None
    key_name: Annotated[Words | None, About("The name of the TSIG key.")] = None
    key_secret: Annotated[Words | None, Secret(), About("The TSIG key's secret, base64.")] = field(
        default=None, repr=False
    )
    key_algorithm: Annotated[
        str, Choice(("hmac-sha256", "hmac-sha384", "hmac-sha512")), About("The TSIG key's algorithm.")
    ] = "hmac-sha256"
    propagation: Annotated[
        Seconds, About("How long the zone's other servers may take to have a record before the authority is told.")
    ] = 120.0


@frozen
class LetsEncryptSection:
    """Certificates by ACME (RFC 8555), the original's keys first; `letsencrypt` is the same section."""

    enabled: Annotated[Bool, About("Whether certificates are fetched and renewed by this server.")] = False
    domain: Annotated[Domain | None, About("The first domain of the certificate; `hostname` when left out.")] = None
    email: Annotated[Mailbox | None, About("Whom the authority may write to.")] = None
    cache_dir: Annotated[Words, About("The folder of the account and the certificates; 0700.")] = "./certs"
    staging: Annotated[Bool, About("Whether Let's Encrypt's staging service is asked.")] = False
    domains: Annotated[
        tuple[DomainPattern, ...],
        About('Further domains of the same certificate; one such as "*.example.com" needs dns-01.'),
    ] = ()
    directory_url: Annotated[
        Words | None, About("Another authority's ACME directory; Let's Encrypt's when left out.")
    ] = None
    ca_file: Annotated[
        Words | None,
        About("Whom the authority's own HTTPS is checked against, PEM; the system's trust when left out."),
    ] = None
    accept_terms: Annotated[
        Bool, About("Whether you agree to the authority's terms of service; false registers no account.")
    ] = True
    eab_key_id: Annotated[Words | None, About("External account binding: the key's id, RFC 8555 §7.3.4.")] = None
    eab_hmac_key: Annotated[Words | None, Secret(), About("External account binding: the key, base64url.")] = field(
        default=None, repr=False
    )
    profile: Annotated[Words | None, About("The authority's profile of certificate; its default when left out.")] = None
    key_type: Annotated[
        str,
        Choice(("ecdsa-p256", "ecdsa-p384", "rsa-2048"), {"ecdsa": "ecdsa-p256", "rsa": "rsa-2048"}),
        About("The kind of a certificate's private key."),
    ] = "ecdsa-p256"
    challenge: Annotated[
        str, Choice(("http-01", "dns-01")), About("How the authority is shown that the domains are yours.")
    ] = "http-01"
    http_addr: Annotated[
        ListenAddr,
        About("Where http-01 is answered; the authority asks at port 80, a proxy may lead to another one."),
    ] = ":80"
    dns: DnsUpdateSection = DnsUpdateSection()


@frozen
class RenewalSection:
    """When certificates by ACME are renewed, the original's keys."""

    auto_renew: Annotated[Bool, About("Whether they are renewed without being asked.")] = True
    renewal_days: Annotated[
        Days | None,
        About("Days before its end that a certificate is renewed; a third of its lifetime when left out."),
    ] = None
    check_interval: Annotated[Seconds, About("How often it is looked at whether one is due.")] = 3600.0
    renewal_timeout: Annotated[Seconds, About("How long one attempt may take.")] = 300.0


@frozen
class TlsSection:
    """TLS, the original's keys first."""

    enabled: Annotated[Bool, About("Whether TLS is served.")] = False
    listen_addr: Annotated[
        ListenAddr, About("Where TLS is spoken from the first octet, unless `listeners` names all listeners.")
    ] = ":465"
    cert_file: Annotated[Words | None, About("The certificate with its chain, PEM.")] = None
    key_file: Annotated[Words | None, About("The private key, PEM.")] = None
    certificates: Annotated[
        tuple[CertificateSection, ...], About("Further certificates, chosen by the name that a client asks for.")
    ] = ()
    enable_starttls: Annotated[Bool, About("Whether `listen_addr` offers STARTTLS.")] = True
    min_version: Annotated[Version, About("The oldest version that is spoken with clients.")] = "tls1.2"
    max_version: Annotated[
        Version | None, About("The newest version that is spoken with clients; no bound when left out.")
    ] = None
    ciphers: Annotated[
        Words | None, About("OpenSSL's list of ciphers for TLS 1.2; Mozilla's intermediate ones when left out.")
    ] = None
    client_auth: Annotated[
        ClientCertificates,
        About("Whether clients are asked for a certificate, or must show one."),
    ] = ClientCertificates.NONE
    client_ca_file: Annotated[Words | None, About("The authorities of client certificates, PEM.")] = None
    relay_certificates: Annotated[
        tuple[Words, ...],
        About("SHA-256 fingerprints, in hexadecimal, of client certificates whose holders may relay."),
    ] = ()
    handshakes_per_address: Annotated[
        int,
        Whole("handshakes a second", 1),
        About("Handshakes of one address a second, lasting; five times as many at once."),
    ] = 20
    handshake_timeout: Annotated[Seconds, About("How long a handshake may take.")] = 30.0
    lets_encrypt: LetsEncryptSection = LetsEncryptSection()
    renewal: RenewalSection = RenewalSection()
