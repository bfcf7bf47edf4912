"""The plugin that bounds how much may come in a minute or an hour.

What is not here: buckets (`buckets`, `counters`), which there are (`limits`).
Nothing is counted for who is listed in `whitelist_ips`, for unix sockets, and for who has a true reverse name in
`whitelist_domains`: a sender's domain would be no proof, anybody may write it.
"""

from typing import Final, cast

import trio

from elemta.config.protection import RateLimiterSection
from elemta.mail.envelope import Recipient
from elemta.plugins.api import CONTINUE, Defer, Host, Mail, Reject, Session, Verdict
from elemta.plugins.protection.clients import Networks, is_below
from elemta.plugins.protection.counters import Counters
from elemta.plugins.protection.limits import Charge, Measure, Party, charges_of, limits_of
from elemta.plugins.protection.report import Protection, in_seconds
from elemta.plugins.protection.reverse import reverse_names

#: Seconds that a client's reverse name may take, where one is asked for; without it the client is counted.
REVERSE_SECONDS: Final = 5.0


class RateLimit(Protection):
    """Bounds connections, mails, recipients and octets."""

    settings_class = RateLimiterSection
    priority = 100
    about = "Limits how much an address, network, sender, user or recipient's domain may do in a minute or an hour."
    label = "ratelimit"

    def __init__(self, host: Host, settings: RateLimiterSection | None = None) -> None:
        super().__init__(host, settings)
        section = cast(RateLimiterSection, self.settings)
        self._section = section
        self._limits = limits_of(section)
        self._banned = Networks(section.blacklist_ips)
        self._counters = Counters(host, most_keys=section.cache_size)

    async def on_connect(self, session: Session) -> Verdict:
        host = session.client.host
        if await self._is_free(session):
            return CONTINUE
        if host in self._banned:
            return self.refuse(Reject("your address is not welcome here", 554, "5.7.1"), session)
        refused = await self._draw(Measure.CONNECTIONS, Party(address=host), code=421)
        return CONTINUE if refused is None else self.refuse(refused, session)

    async def on_mail_from(self, mail: Mail) -> Verdict:
        session = mail.session
        if await self._is_free(session):
            return CONTINUE
        if mail.sender is not None and is_below(mail.sender.domain, self._section.blacklist_domains):
            text = f"senders of {mail.sender.domain} are not welcome here"
            return self.refuse(Reject(text, 550, "5.7.1"), session, mail=mail)
        party = _party(mail)
        refused = await self._draw(Measure.MESSAGES, party)
        if refused is None and mail.declared_size:
            refused = await self._look(Measure.OCTETS, party, mail.declared_size)
        return self.reported(session) if refused is None else self.refuse(refused, session, mail=mail)

    async def on_rcpt_to(self, mail: Mail, recipient: Recipient) -> Verdict:
        if await self._is_free(mail.session):
            return CONTINUE
        refused = await self._draw(Measure.RECIPIENTS, _party(mail, recipient.address.domain))
        return CONTINUE if refused is None else self.refuse(refused, mail.session, mail=mail)

    async def on_data_complete(self, mail: Mail) -> Verdict:
        if await self._is_free(mail.session):
            return CONTINUE
        refused = await self._draw(Measure.OCTETS, _party(mail), cost=mail.content.size)
        return CONTINUE if refused is None else self.refuse(refused, mail.session, mail=mail)

    # ---- counting ------------------------------------------------------------------------------------

    async def _draw(self, measure: Measure, party: Party, *, cost: int = 1, code: int = 450) -> Defer | None:
        """Count something; how to refuse it when there is too much of it."""
        found = await self._counters.draw(charges_of(self._limits, measure, party=party, cost=cost))
        return None if found is None else _too_many(measure, found, code)

    async def _look(self, measure: Measure, party: Party, cost: int) -> Defer | None:
        """As `_draw`, without counting."""
        found = await self._counters.look(charges_of(self._limits, measure, party=party, cost=cost))
        return None if found is None else _too_many(measure, found, 450)

    # ---- who is not counted --------------------------------------------------------------------------

    async def _is_free(self, session: Session) -> bool:
        """Looked up once a session: at its first event that this plugin is asked about."""
        known: bool | None = session.notes.get(self)
        if known is None:
            known = session.notes[self] = await self._looks_free(session)
        return known

    async def _looks_free(self, session: Session) -> bool:
        host = session.client.host
        if session.client.is_unix or host in self.free:
            return True
        if not self._section.whitelist_domains:
            return False
        with trio.move_on_after(REVERSE_SECONDS):
            names = await reverse_names(self.host.resolver, host)
            return any(is_below(name, self._section.whitelist_domains) for name in names.confirmed)
        return False


def _party(mail: Mail, domain: str = "") -> Party:
    session = mail.session
    sender = "" if mail.sender is None else str(mail.sender)
    return Party(session.client.host, session.user, sender, domain)


def _too_many(measure: Measure, found: tuple[Charge, float], code: int) -> Defer:
    charge, seconds = found
    text = f"too many {measure.value} {charge.kind.value}, try again in {in_seconds(seconds)}"
    return Defer(text, code, "4.7.1")
