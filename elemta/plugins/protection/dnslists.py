"""The plugin that asks lists of addresses in DNS about a client.

What is not here: what answers mean (`listing`). A client is asked about once a session, at its first MAIL: whoever has
logged in by then, or may relay, is not asked about, nor are addresses that the public DNS knows nothing of. All lists
are asked at once, under one deadline; a list that does not answer in time, or not whether it lists everybody, says
nothing.
"""

from typing import Annotated, Final, cast

import trio
from attrs import frozen

from elemta.config.kinds import About, Amount, Bool, Domain, Form, Relay, Seconds
from elemta.plugins.api import CONTINUE, Host, Mail, Reject, Session, Verdict
from elemta.plugins.protection import listing
from elemta.plugins.protection.clients import Address
from elemta.plugins.protection.listing import Answer, Listing, Reading, Trouble, Zone
from elemta.plugins.protection.report import Protection, in_ascii
from elemta.resolver.base import NameNotFound, ResolutionFailed

#: Lists that are asked about one client, at most: the first so many of the configuration.
MAX_ZONES: Final = 32
#: Lists that are asked at once, over all sessions: whoever comes beyond waits, within the deadline.
MAX_QUESTIONS: Final = 500
#: Seconds between two log lines about one trouble with one list.
LOG_SECONDS: Final = 3600.0

_Score = Annotated[float, Amount("points", -1000, 1000)]


@frozen
class AnswerSettings:
    """What one answer of a list is worth."""

    address: Annotated[
        str,
        Form('a pattern of answers such as "127.0.0.2-11" or "127.0.*.3"', listing.parse_pattern),
        About("Which answer: each octet is a number, a range, or `*`."),
    ]
    score: Annotated[_Score, About("What it adds to the score.")]


@frozen
class ZoneSettings:
    """One list."""

    zone: Annotated[Domain, About("Its name in DNS.")]
    score: Annotated[_Score, About("What being listed adds to the score; below 0 for a list of good ones.")] = 1.0
    answers: Annotated[
        tuple[AnswerSettings, ...], About("Scores by what is answered; the first that fits counts, no other answer.")
    ] = ()


_ZONES: Final = (
    ZoneSettings("zen.spamhaus.org", answers=(AnswerSettings("127.0.0.2-11", 5.0),)),
    ZoneSettings(
        "list.dnswl.org",
        answers=(
            AnswerSettings("127.0.*.1", -1.0),
            AnswerSettings("127.0.*.2", -3.0),
            AnswerSettings("127.0.*.3", -5.0),
        ),
    ),
)


@frozen
class DnsListsSettings:
    """What can be set."""

    zones: Annotated[
        tuple[ZoneSettings, ...],
        About("The lists; mind their terms of use. `zen.spamhaus.org` and `list.dnswl.org` when left out."),
    ] = _ZONES
    reject_at: Annotated[
        float, Amount("points", 0.001, 1000), About("From which sum of scores on mail is refused.")
    ] = 5.0
    timeout: Annotated[Seconds, About("How long all lists together may take; at most 20 seconds.")] = 5.0
    whitelist_ips: Annotated[tuple[Relay, ...], About("Addresses and networks that no list is asked about.")] = ()
    dry_run: Annotated[Bool, About("Whether a refusal is only reported: by the log, by a word at the mail.")] = False


#: Seconds that lists may take whatever was set: a plugin's deadline is 30.
MOST_SECONDS: Final = 20.0


class DnsLists(Protection):
    """Refuses clients that lists warn of."""

    settings_class = DnsListsSettings
    priority = 75
    about = "Asks lists of addresses in DNS about a client, and refuses those with a bad name."
    label = "dnslists"

    def __init__(self, host: Host, settings: DnsListsSettings | None = None) -> None:
        super().__init__(host, settings)
        self._settings = cast(DnsListsSettings, self.settings)
        zones: dict[str, Zone] = {}
        for each in self._settings.zones:  # one that was written twice counts once, as it was written first
            zones.setdefault(each.zone, _zone(each))
        self._zones = list(zones.values())[:MAX_ZONES]
        self._questions = trio.CapacityLimiter(MAX_QUESTIONS)
        #: When what was logged of a list may be logged again; bounded by lists and kinds of trouble.
        self._next_log: dict[tuple[str, Trouble], float] = {}

    async def on_mail_from(self, mail: Mail) -> Verdict:
        session = mail.session
        address = self.public_address(session)
        if address is None:
            return CONTINUE
        listings = await self._listings(session, address)
        if not listings:
            return CONTINUE
        score = listing.total(listings)
        if score >= self._settings.reject_at:
            text = listing.refusal(str(address), listings)
            return self.refuse(Reject(text, 550, "5.7.1", score=score), session, mail=mail)
        return self.annotated(listing.summary(listings), score=0.0 if self.is_dry_run else score)

    async def _listings(self, session: Session, address: Address) -> tuple[Listing, ...]:
        known: tuple[Listing, ...] | None = session.notes.get(self)
        if known is None:
            known = session.notes[self] = await self._ask_all(address)
        return known

    async def _ask_all(self, address: Address) -> tuple[Listing, ...]:
        """What every list says, in their order, as far as they answer in time."""
        heard: dict[str, Listing | None] = {}
        with trio.move_on_after(min(self._settings.timeout, MOST_SECONDS)):
            async with trio.open_nursery() as nursery:
                for zone in self._zones:
                    nursery.start_soon(self._ask, address, zone, heard)
        for zone in self._zones:
            if zone.name not in heard:
                self._tell(zone, Trouble.SILENT)
        return tuple(said for zone in self._zones if (said := heard.get(zone.name)) is not None)

    async def _ask(self, address: Address, zone: Zone, heard: dict[str, Listing | None]) -> None:
        """Put down what one list says, None where that is nothing; and nothing at all where it does not answer."""
        async with self._questions:
            try:
                reading = await self._read(address, zone)
            except ResolutionFailed:
                return
            heard[zone.name] = Listing(zone.name, reading.score) if reading.score else None
            if reading.trouble is not None:
                self._tell(zone, reading.trouble)
            if reading.score:
                reason = await self._reason(listing.question(address, zone.name))
                heard[zone.name] = Listing(zone.name, reading.score, reason)

    async def _read(self, address: Address, zone: Zone) -> Reading:
        """What the list answers. Raises `ResolutionFailed`."""
        reading = listing.read(zone, await self._answers(listing.question(address, zone.name)))
        if reading.score and await self._answers(listing.control_question(address, zone.name)):
            return Reading(0.0, Trouble.LISTS_ALL)
        return reading

    async def _answers(self, name: str) -> list[str]:
        """The A records of a name, none where it is not there. Raises `ResolutionFailed`."""
        try:
            return await self.host.resolver.ipv4_addresses(name)
        except NameNotFound:
            return []

    async def _reason(self, name: str) -> str:
        try:
            return in_ascii(next(iter(await self.host.resolver.texts(name)), ""))
        except (NameNotFound, ResolutionFailed):
            return ""

    def _tell(self, zone: Zone, trouble: Trouble) -> None:
        now = trio.current_time()
        if now >= self._next_log.get((zone.name, trouble), now):
            self._next_log[zone.name, trouble] = now + LOG_SECONDS
            self.host.log.warning("plugin.list_ignored", zone=zone.name, reason=trouble.value)


def _zone(settings: ZoneSettings) -> Zone:
    return Zone(settings.zone, settings.score, tuple(Answer(each.address, each.score) for each in settings.answers))
