"""The plugin that puts off mails of strangers.

What is not here: when a mail passes (`greylist`), how long the store is waited for (`shared`).
Users who logged in and clients that may relay are never put off. While the key-value store does not answer nobody is:
otherwise everybody who was known would be a stranger again.
"""

from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from typing import Annotated, Final, cast

from attrs import frozen

from elemta.config.kinds import About, Bool, Domain, Relay, Seconds, Whole
from elemta.mail.envelope import Recipient
from elemta.net.networks import network_of
from elemta.plugins.api import CONTINUE, Defer, Host, Mail, Session, Verdict
from elemta.plugins.protection import greylist
from elemta.plugins.protection.clients import is_below
from elemta.plugins.protection.greylist import Client, Rules, Ruling
from elemta.plugins.protection.report import Protection, in_seconds
from elemta.plugins.protection.shared import SharedState

#: Seconds that anything may be remembered: a store keeps nothing longer than ten years (`storage.keyvalue`).
MOST_SECONDS: Final = 3650 * 86_400.0
#: Times that a record is read anew because another session changed it in between.
MAX_SWAPS: Final = 5


@frozen
class GreylistingSettings:
    """What can be set. Defaults as those of other greylists: five minutes, two days, five weeks."""

    delay: Annotated[Seconds, About("How long a stranger's mail is put off.")] = 300.0
    retry_window: Annotated[Seconds, About("How long the stranger may take to come again.")] = 172_800.0
    lifetime: Annotated[Seconds, About("How long a triplet that passed is remembered after it was last seen.")] = (
        35 * 86_400.0
    )
    client_passes: Annotated[
        int,
        Whole("triplets"),
        About("After how many triplets that passed, one an hour, a client's network is known; 0: never."),
    ] = 5
    client_lifetime: Annotated[Seconds, About("How long such a network is remembered after it was last seen.")] = (
        35 * 86_400.0
    )
    whitelist_ips: Annotated[tuple[Relay, ...], About("Addresses and networks of clients that are not put off.")] = (
        "127.0.0.1",
        "::1",
    )
    whitelist_recipients: Annotated[
        tuple[Domain, ...], About("Domains, with all below them, whose recipients wait for nobody.")
    ] = ()
    dry_run: Annotated[Bool, About("Whether a refusal is only reported: by the log, by a word at the mail.")] = False

    @property
    def rules(self) -> Rules:
        """The same in milliseconds."""
        return Rules(
            delay=round(self.delay * 1000),
            retry_window=round(self.retry_window * 1000),
            lifetime=round(self.lifetime * 1000),
            client_passes=self.client_passes,
            client_lifetime=round(self.client_lifetime * 1000),
        )


class Greylisting(Protection):
    """Puts off what strangers send."""

    settings_class = GreylistingSettings
    priority = 50
    about = "Asks unknown clients to come again in five minutes, which most programs that send spam do not."
    label = "greylisting"

    def __init__(self, host: Host, settings: GreylistingSettings | None = None) -> None:
        """Raises `ValueError` for settings by which no stranger would ever pass, or nothing could be kept."""
        super().__init__(host, settings)
        own = self._settings = cast(GreylistingSettings, self.settings)
        if own.retry_window <= own.delay:
            raise ValueError("retry_window has to be longer than delay: nobody could come again in time")
        if max(own.retry_window, own.lifetime, own.client_lifetime) > MOST_SECONDS:
            raise ValueError(f"nothing is remembered for longer than {MOST_SECONDS / 86_400:g} days")
        self._rules = own.rules
        self._shared = SharedState(host, meanwhile="nobody is greylisted meanwhile")

    async def on_rcpt_to(self, mail: Mail, recipient: Recipient) -> Verdict:
        if self.spares(mail.session) or is_below(recipient.address.domain, self._settings.whitelist_recipients):
            return CONTINUE
        return await self._shared.ask(partial(self._judge, mail, recipient)) or CONTINUE

    async def _judge(self, mail: Mail, recipient: Recipient) -> Verdict:
        """Raises `SharedAway`."""
        session = mail.session
        if await self._is_known(session):
            return CONTINUE
        sender = "" if mail.sender is None else str(mail.sender)
        key = _triplet_key(session.client.host, sender, str(recipient.address))
        ruling, first = await self._rule(key)
        if ruling.wait is not None:
            text = f"greylisted, please try again in {in_seconds(ruling.wait / 1000)}"
            return self.refuse(Defer(text, 450, "4.7.1"), session, mail=mail)
        if not ruling.is_new:
            return CONTINUE
        await self._count_pass(session)
        return self.annotated(f"came again after {(self._now() - first) / 1000:.0f} seconds")

    # ---- what is remembered --------------------------------------------------------------------------

    async def _rule(self, key: str) -> tuple[Ruling, int]:
        """The ruling, and when the triplet first came. Raises `SharedAway`."""
        shared, rules = self.host.shared, self._rules
        for _ in range(MAX_SWAPS):
            old = await shared.get(key)
            known = greylist.load_triplet(old)
            ruling = greylist.rule(known, self._now(), rules=rules)
            keep = ruling.keep
            if keep is None:
                return ruling, known.first if known else 0
            seconds = greylist.keep_milliseconds(keep, rules) / 1000
            if await shared.swap(key, old, greylist.dump(keep), seconds=seconds):
                return ruling, keep.first
        return Ruling(rules.delay), 0

    async def _is_known(self, session: Session) -> bool:
        """Whether the client's network is known; asked once a session. Raises `SharedAway`."""
        if not self._rules.client_passes:
            return False
        known: bool | None = session.notes.get(self)
        if known is None:
            client = greylist.load_client(await self.host.shared.get(_client_key(session)))
            now = self._now()
            known = session.notes[self] = greylist.is_known(client, now, rules=self._rules)
            if known and greylist.refreshed(client, now):
                await self._put_client(session, lambda client: greylist.refreshed(client, now))
        return known

    async def _count_pass(self, session: Session) -> None:
        """One more triplet of the client's network passed. Raises `SharedAway`."""
        if self._rules.client_passes:
            await self._put_client(session, lambda client: greylist.passed_once_more(client, self._now()))

    async def _put_client(self, session: Session, change: Callable[[Client | None], Client | None]) -> None:
        key, shared = _client_key(session), self.host.shared
        seconds = greylist.client_keep_milliseconds(self._rules) / 1000
        for _ in range(MAX_SWAPS):
            old = await shared.get(key)
            client = change(greylist.load_client(old))
            if client is None or await shared.swap(key, old, greylist.dump(client), seconds=seconds):
                return

    def _now(self) -> int:
        return round(self.host.clock.wall() * 1000)


def _triplet_key(host: str, sender: str, recipient: str) -> str:
    """A digest, as sender and recipient may be long. Case tells no addresses apart here: some clients change it."""
    octets = "\0".join((network_of(host), sender.lower(), recipient.lower())).encode("utf-8", "surrogatepass")
    return f"triplet:{blake2b(octets, digest_size=20).hexdigest()}"


def _client_key(session: Session) -> str:
    return f"client:{network_of(session.client.host)}"
