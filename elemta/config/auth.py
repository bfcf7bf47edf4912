"""The keys of authentication, as frozen classes.

What is not here: what the keys mean together (`config.auth_checks`), mechanisms, passwords, users (`auth`).
Sources of defaults: the original's documentation for its own keys and bounds.
"""

import enum
from typing import Annotated

from attrs import field, frozen

from elemta.config.kinds import About, Bool, Choice, DatabaseName, Duration, Port, Seconds, Secret, Whole, Words

#: SASL mechanisms by their registered names; the first two are the default.
MECHANISMS = ("PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS")


class SenderRule(enum.Enum):
    """Which reverse-paths a user may use."""

    #: The user's own: the name they log in with, where it is an address, and their mail address.
    OWN = "own"
    #: Those, and what the user's attribute `senders` lists.
    LISTED = "listed"
    ANY = "any"


@frozen
class OauthSection:
    """How the tokens of OAUTHBEARER and XOAUTH2 are validated: by asking who gave them out, RFC 7662."""

    introspection_url: Annotated[Words | None, About("The introspection endpoint; https, or http on loopback.")] = None
    client_id: Annotated[Words | None, About("What this server calls itself there.")] = None
    client_secret: Annotated[Words | None, Secret(), About("Its secret there.")] = field(default=None, repr=False)
    user_claim: Annotated[Words, About("The member of the answer that names the user.")] = "username"
    scope: Annotated[Words | None, About("A scope that the token must have.")] = None
    timeout: Annotated[Seconds, About("How long an answer may take.")] = 10.0


@frozen
class AuthSection:
    """Authentication of clients, the original's keys first."""

    enabled: Annotated[Bool, About("Whether clients may authenticate.")] = False
    required: Annotated[Bool, About("Whether they must before they send mail, at every listener that offers AUTH.")] = (
        False
    )
    datasource_type: Annotated[
        str,
        Choice(("file", "sqlite", "postgresql", "mysql"), {"postgres": "postgresql", "mariadb": "mysql"}),
        About("Where the users are: `file` (JSON or htpasswd), `sqlite`, `postgresql`, `mysql`."),
    ] = "sqlite"
    datasource_name: Annotated[Words | None, About("What logs call it; its type when left out.")] = None
    datasource_path: Annotated[Words, About("The file of the users of `file` and `sqlite`.")] = "./elemta.db"
    datasource_host: Annotated[Words | None, About("The database server, or the folder of its socket.")] = None
    datasource_port: Annotated[Port | None, About("The database server's port.")] = None
    datasource_user: Annotated[Words | None, About("The database user.")] = None
    datasource_pass: Annotated[
        Words | None, Secret(), About("The database password; `datasource_pass_file` names a file that holds it.")
    ] = field(default=None, repr=False)
    datasource_db: Annotated[Words | None, About("The database.")] = None
    datasource_dsn: Annotated[
        DatabaseName | None,
        Secret(),
        About("Host, port, user, password and database in one, as `storage.dsn`, where a key of its own is missing."),
    ] = field(default=None, repr=False)
    user_query: Annotated[
        Words | None,
        About(
            "A SELECT for an existing table instead of the tables made here; `:user` stands for the name, the columns "
            "are `password` and `username`, and optionally `email`, `is_active`, `senders`."
        ),
    ] = None
    mechanisms: Annotated[
        tuple[Annotated[str, Choice(MECHANISMS)], ...], About("The SASL mechanisms that are offered.")
    ] = ("PLAIN", "LOGIN")
    senders: Annotated[
        SenderRule, About("Which senders a user may use: `own` addresses, those `listed` as well, or `any`.")
    ] = SenderRule.LISTED
    max_failures_per_session: Annotated[int, Whole("failures", 1), About("Failures of one session before 421.")] = 3
    max_failures_per_address: Annotated[
        int, Whole("failures", 1), About("Failures of one address before it is locked out.")
    ] = 10
    max_failures_per_network: Annotated[
        int, Whole("failures", 1), About("Failures of one IPv4 /24 or IPv6 /64 network before it is locked out.")
    ] = 50
    max_failures_per_user: Annotated[
        int,
        Whole("failures", 1),
        About("Failures for one user before networks that this user never came from are locked out."),
    ] = 20
    lockout: Annotated[Seconds, About("How long a lock-out lasts, and how long failures are remembered.")] = 900.0
    credential_cache: Annotated[
        float,
        Duration(zero=True),
        About("How long a password that was right need not be hashed again; 0 hashes it each time."),
    ] = 300.0
    timeout: Annotated[Seconds, About("How long the users may take to be asked before 454.")] = 10.0
    oauth: OauthSection = OauthSection()
