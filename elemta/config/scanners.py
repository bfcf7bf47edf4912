"""The keys of spam filters, virus scanners, the original's first.

What is not here: what the keys mean together (`config.scanner_checks`), or asking a scanner (`plugins.scanners`).
Sources of defaults: the original's documentation for its own keys; the scanners themselves where a key says so.
"""

import enum
from typing import Annotated
from urllib.parse import urlsplit

from attrs import field, frozen

from elemta.config.addresses import parse_host, parse_listen_address
from elemta.config.kinds import About, Amount, Bool, Form, Octets, Seconds, Secret, Words
from elemta.config.plugins import PluginFailure


class OnVirus(enum.Enum):
    """What becomes of a mail with a virus in it."""

    REJECT = "reject"
    QUARANTINE = "quarantine"


def _service(text: str) -> str:
    address = parse_listen_address(text)
    if address.path is None and not (address.host and address.port):
        raise ValueError("name the host and the port of the service")
    return str(address)


def _web_service(text: str) -> str:
    if text.startswith("unix:"):
        return str(parse_listen_address(text))
    parts = urlsplit(text)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("its port is a number from 1 to 65535") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError('it begins with "http://" or "https://", then comes the host; or it is "unix:/path"')
    if port == 0:
        raise ValueError("its port is a number from 1 to 65535")
    if parts.username is not None:
        raise ValueError("it holds no user or password: write that in api_key")
    if parts.query or parts.fragment:
        raise ValueError("it ends behind the port or a path")
    host = parse_host(host)
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"


ServiceAddr = Annotated[str, Form('where a service listens: "host:port", "[v6]:port" or "unix:/path"', reader=_service)]
WebServiceAddr = Annotated[
    str,
    Form('where a web service listens: "http://host:port", "https://host" or "unix:/path"', reader=_web_service),
]
#: Scores are small numbers; a thousand is what GTUBE, the test mail of all filters, weighs.
Score = Annotated[float, Amount("points", -10_000.0, 10_000.0)]

# ---- what scanners have in common ----------------------------------------------------------------

OwnSwitch = Annotated[Bool, About("Whether this scanner is asked, where its section is enabled as well.")]
SectionSwitch = Annotated[
    Bool, About("Whether the scanners of this section are asked at all; each has a switch of its own as well.")
]
ScanSeconds = Annotated[Seconds, About("How long one scan may take.")]
TagScore = Annotated[
    Score | None,
    About("The score from which a mail is spam and is tagged; left out: where the filter itself says so."),
]
HoldScore = Annotated[Score | None, About("The score from which a mail is held in the queue; left out: none is.")]
RefuseScore = Annotated[
    Score | None,
    About("The score from which a mail is refused; left out: what is spam, where `antispam.reject_on_spam` is set."),
]

# ---- sections ------------------------------------------------------------------------------------


@frozen
class SpamassassinSection:
    """SpamAssassin's daemon, spamd."""

    enabled: OwnSwitch = False
    address: Annotated[ServiceAddr, About("Where spamd listens.")] = "localhost:783"
    timeout: ScanSeconds = 30.0
    scan_limit: Annotated[
        Octets,
        About("Octets of the largest mail that is scanned; spamc's own limit, since rules on large mails are slow."),
    ] = 512_000
    threshold: TagScore = None
    quarantine_threshold: HoldScore = None
    reject_threshold: RefuseScore = None


@frozen
class RspamdSection:
    """Rspamd, asked over HTTP. With any threshold of ours its own action is not obeyed, only shown."""

    enabled: OwnSwitch = False
    address: Annotated[WebServiceAddr, About("Where rspamd's normal worker listens.")] = "http://localhost:11333"
    timeout: ScanSeconds = 30.0
    scan_limit: Annotated[Octets, About("Octets of the largest mail that is scanned.")] = 26_214_400
    threshold: TagScore = None
    quarantine_threshold: HoldScore = None
    reject_threshold: RefuseScore = None
    api_key: Annotated[Words | None, Secret(), About("The password of the worker, where it asks for one.")] = field(
        default=None, repr=False
    )
    defer_greylist: Annotated[
        Bool,
        About(
            "Whether rspamd's action `greylist` is answered 451. Its greylisting module says `soft reject` when a mail "
            "shall wait, which is always honoured; without that module such a mail would wait for ever."
        ),
    ] = False


@frozen
class AntispamSection:
    """Spam filters."""

    enabled: SectionSwitch = False
    reject_on_spam: Annotated[Bool, About("Whether what is spam is refused, and not only tagged.")] = False
    on_failure: Annotated[
        PluginFailure, About("What becomes of a mail whose filter does not answer: `accept`, `defer`, `reject`.")
    ] = PluginFailure.ACCEPT
    spamassassin: SpamassassinSection = SpamassassinSection()
    rspamd: RspamdSection = RspamdSection()


@frozen
class ClamavSection:
    """ClamAV's daemon, clamd."""

    enabled: OwnSwitch = False
    address: Annotated[ServiceAddr, About("Where clamd listens.")] = "localhost:3310"
    timeout: ScanSeconds = 30.0
    scan_limit: Annotated[
        Octets, About("Octets of the largest mail that is scanned; at most clamd's `StreamMaxLength`.")
    ] = 26_214_400


@frozen
class AntivirusSection:
    """Virus scanners."""

    enabled: SectionSwitch = False
    reject_on_failure: Annotated[
        Bool | None,
        About("Instead of `on_failure`, as the original has it: true is `reject`, false is `accept`."),
    ] = None
    on_failure: Annotated[
        PluginFailure | None,
        About(
            "What becomes of a mail whose scanner does not answer: `accept`, `defer`, `reject`; `defer` if left out."
        ),
    ] = None
    on_virus: Annotated[
        OnVirus, About("Whether a mail with a virus is refused (`reject`) or held in the queue (`quarantine`).")
    ] = OnVirus.REJECT
    clamav: ClamavSection = ClamavSection()

    @property
    def failure(self) -> PluginFailure:
        """What becomes of a mail whose scanner does not answer, whichever key says it."""
        if self.on_failure is not None:
            return self.on_failure
        if self.reject_on_failure is None:
            return PluginFailure.DEFER  # what was not scanned may not pass, and the client comes again
        return PluginFailure.REJECT if self.reject_on_failure else PluginFailure.ACCEPT
