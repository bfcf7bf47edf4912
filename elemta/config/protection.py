"""The keys of rate limits, as frozen classes.

The original's keys count for a client's address; a client's network, a sender, a user, a recipient's domain have
sections of their own. What is not here: counting (`plugins.protection`). Sources of defaults: the original's
documentation for its own keys; a network may do what five addresses may.
"""

from typing import Annotated

from attrs import frozen

from elemta.config.kinds import About, Bool, Domain, Octets, Relay, Whole

_COUNTS_ALL = "`null`: as many as there are."

_Connections = Annotated[int, Whole("connections", 1)]
_Mails = Annotated[int, Whole("mails", 1)]
_Recipients = Annotated[int, Whole("recipients", 1)]


@frozen
class NetworkRatesSection:
    """What one IPv4 /24 or IPv6 /64 network may do."""

    connections_per_minute: Annotated[_Connections | None, About(f"Connections in a minute. {_COUNTS_ALL}")] = 500
    messages_per_minute: Annotated[_Mails | None, About(f"Mails in a minute. {_COUNTS_ALL}")] = 300
    messages_per_hour: Annotated[_Mails | None, About(f"Mails in an hour. {_COUNTS_ALL}")] = 5000
    recipients_per_hour: Annotated[_Recipients | None, About(f"Recipients in an hour. {_COUNTS_ALL}")] = 25_000
    octets_per_hour: Annotated[Octets | None, About(f"Octets of mail in an hour. {_COUNTS_ALL}")] = None


@frozen
class UserRatesSection:
    """What one user who logged in may do, from all addresses together."""

    messages_per_minute: Annotated[_Mails | None, About(f"Mails in a minute. {_COUNTS_ALL}")] = None
    messages_per_hour: Annotated[_Mails | None, About(f"Mails in an hour. {_COUNTS_ALL}")] = 500
    recipients_per_hour: Annotated[_Recipients | None, About(f"Recipients in an hour. {_COUNTS_ALL}")] = 2000
    octets_per_hour: Annotated[Octets | None, About(f"Octets of mail in an hour. {_COUNTS_ALL}")] = None


@frozen
class SenderRatesSection:
    """What one sender's address may do, whoever uses it."""

    messages_per_minute: Annotated[_Mails | None, About(f"Mails in a minute. {_COUNTS_ALL}")] = None
    messages_per_hour: Annotated[_Mails | None, About(f"Mails in an hour. {_COUNTS_ALL}")] = None
    recipients_per_hour: Annotated[_Recipients | None, About(f"Recipients in an hour. {_COUNTS_ALL}")] = None
    octets_per_hour: Annotated[Octets | None, About(f"Octets of mail in an hour. {_COUNTS_ALL}")] = None


@frozen
class DomainRatesSection:
    """What all together may send to one recipient's domain."""

    recipients_per_minute: Annotated[_Recipients | None, About(f"Recipients in a minute. {_COUNTS_ALL}")] = None
    recipients_per_hour: Annotated[_Recipients | None, About(f"Recipients in an hour. {_COUNTS_ALL}")] = None


@frozen
class RateLimiterSection:
    """How much clients may do. The original's keys first: they count for one address."""

    enabled: Annotated[Bool, About("Whether limits hold, as if the plugin `ratelimit` was listed.")] = False
    connection_rate_per_minute: Annotated[
        _Connections | None, About(f"Connections of one address in a minute. {_COUNTS_ALL}")
    ] = 100
    connection_burst_size: Annotated[
        int, Whole("connections", 1), About("How many of them may come at once; no more than the minute's.")
    ] = 20
    max_messages_per_minute: Annotated[_Mails | None, About(f"Mails of one address in a minute. {_COUNTS_ALL}")] = 60
    max_messages_per_hour: Annotated[_Mails | None, About(f"Mails of one address in an hour. {_COUNTS_ALL}")] = 1000
    max_recipients_per_hour: Annotated[
        _Recipients | None, About(f"Recipients of one address in an hour. {_COUNTS_ALL}")
    ] = 5000
    max_data_per_hour: Annotated[Octets | None, About(f"Octets of mail of one address in an hour. {_COUNTS_ALL}")] = (
        None
    )
    volume_burst_size: Annotated[
        Octets | None,
        About("How many of them may come at once; the hour's when left out. A larger mail counts as so many."),
    ] = None
    per_network: NetworkRatesSection = NetworkRatesSection()
    per_user: UserRatesSection = UserRatesSection()
    per_sender: SenderRatesSection = SenderRatesSection()
    per_recipient_domain: DomainRatesSection = DomainRatesSection()
    whitelist_ips: Annotated[tuple[Relay, ...], About("Addresses and networks of clients that are not counted.")] = (
        "127.0.0.1",
        "::1",
    )
    whitelist_domains: Annotated[
        tuple[Domain, ...],
        About("Clients are not counted whose reverse name lies in one of these domains and resolves back."),
    ] = ()
    blacklist_ips: Annotated[tuple[Relay, ...], About("Addresses and networks that may not connect.")] = ()
    blacklist_domains: Annotated[
        tuple[Domain, ...], About("Domains, with all below them, of senders that are refused.")
    ] = ()
    cache_size: Annotated[
        int,
        Whole("subjects", 100, 10_000_000),
        About("Subjects that one process remembers for when the shared counters do not answer."),
    ] = 10_000
    dry_run: Annotated[Bool, About("Whether a refusal is only reported: by the log, by a word at the mail.")] = False
