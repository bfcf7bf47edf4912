"""Who owns which mail of a shared queue, as the answers of its store say.

What is not here: the store; this is a book of its own, kept beside it, so that what a store or a node does wrong stands
out at once: two owners of a mail, a change that is applied under a token that is not the latest any more, attempts in
flight at a node's end of which the store does not speak. Failures raised: none; breaches are sentences in the record.
"""

from collections.abc import Collection, Sequence

import trio
from attrs import define

from elemta.simulation.record import Member, Record
from elemta.storage.base import Begin, Change, Claim, Insert, Joined, Result, Settle, Withdraw
from elemta.storage.records import QueuedMail, QueueState


@define
class _Held:
    """A mail that is owned; `in_flight` while an attempt at it is marked."""

    owner: str
    token: int
    in_flight: bool


class Ledger:
    """Keeps the book of one queue."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._held: dict[str, _Held] = {}
        #: Each node that takes part, under its latest token.
        self._latest: dict[str, Member] = {}

    def _breach(self, words: str) -> None:
        self.record.breaches.append(f"at {trio.current_time():.3f} {words}")

    # ---- nodes ---------------------------------------------------------------------------------

    def join(self, owner: str, joined: Joined) -> None:
        """A node has a new token; what it had under the one before is anybody's."""
        self.end(owner, "join", joined.uncertain)
        member = self._latest[owner] = Member(owner, joined.token, trio.current_time())
        self.record.members.append(member)

    def end(self, owner: str, why: str, uncertain: Collection[str] | None) -> None:
        """A node's token counts no more. `uncertain` is what the store says of its attempts in flight, None when it
        does not say."""
        ours = {queue_id: held for queue_id, held in self._held.items() if held.owner == owner}
        in_flight = tuple(sorted(queue_id for queue_id, held in ours.items() if held.in_flight))
        if uncertain is not None and set(uncertain) != set(in_flight):
            self._breach(f"{why} of {owner} names {sorted(uncertain)} as in flight, not {list(in_flight)}")
        for queue_id in ours:
            del self._held[queue_id]
        member = self._latest.pop(owner, None)
        if member is not None:
            member.until, member.ended_by, member.uncertain = trio.current_time(), why, in_flight

    def leave(self, owner: str, token: int) -> None:
        """A node has said good-bye under this token."""
        if self._is_latest(owner, token):
            self.end(owner, "leave", None)

    def _is_latest(self, owner: str, token: int) -> bool:
        return owner in self._latest and self._latest[owner].token == token

    # ---- mails -----------------------------------------------------------------------------------

    def commit(self, batch: Sequence[Change], results: Sequence[Result]) -> None:
        """Changes were committed."""
        for change, result in zip(batch, results, strict=True):
            if result is not Result.APPLIED:
                continue
            if isinstance(change, Insert):
                self._insert(change)
            elif isinstance(change, Withdraw):
                self._held.pop(change.id, None)
            else:
                self._change(change)

    def _insert(self, change: Insert) -> None:
        mail = change.mail
        if not mail.owner or mail.id in self._held:
            return  # anybody's; or repeated
        if change.token is not None and not self._is_latest(mail.owner, change.token):
            self._breach(f"{mail.id} was inserted as {mail.owner}'s under the token {change.token}, long fenced")
            return
        member = self._latest.get(mail.owner)
        if member is not None and mail.state is QueueState.ACTIVE:
            self._held[mail.id] = _Held(mail.owner, member.token, mail.attempting_since is not None)

    def _change(self, change: Begin | Settle) -> None:
        held = self._held.get(change.id)
        if held is None or (held.owner, held.token) != (change.owner, change.token):
            name, owned = type(change).__name__, "nobody's" if held is None else f"{held.owner}'s under {held.token}"
            self._breach(f"{name} of {change.id} by {change.owner} under {change.token} was applied; it is {owned}")
            return
        if isinstance(change, Begin):
            held.in_flight = True
        elif change.mail is not None and change.mail.owner and change.mail.state is QueueState.ACTIVE:
            held.in_flight = False
        else:
            del self._held[change.id]

    def claim(self, claim: Claim, mails: Sequence[QueuedMail]) -> None:
        """Mails were claimed."""
        if mails and not self._is_latest(claim.owner, claim.token):
            self._breach(f"{claim.owner} claimed under the token {claim.token}, long fenced")
        for mail in mails:
            held = self._held.get(mail.id)
            if held is not None:
                self._breach(f"{mail.id} was claimed by {claim.owner}, and is {held.owner}'s")
            self._held[mail.id] = _Held(claim.owner, claim.token, in_flight=False)

    def release(self, ids: Collection[str]) -> None:
        """An operator held or deleted these mails: nobody owns them."""
        for queue_id in ids:
            self._held.pop(queue_id, None)
