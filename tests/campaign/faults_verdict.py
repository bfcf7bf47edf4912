"""What a round of the fault campaign found.

What is not here: how it came about. A round with something lost, stuck or doubled without a record raises `Broken`.
"""

from collections.abc import Sequence

from attrs import define, field, frozen

from tests.campaign.faults_load import CountingSink
from tests.campaign.faults_site import Node


class Broken(AssertionError):
    """A promise that did not hold; the text says which, with the ids."""


@frozen
class Figures:
    """What was counted, in one round or in many of a kind."""

    rounds: int = 1
    acknowledged: int = 0
    refused: int = 0
    lost: int = 0
    #: Mails that came more than once; each of them is recorded as uncertain, or the round is broken.
    twice: int = 0
    #: Mails an attempt of which was recorded as uncertain.
    uncertain: int = 0
    #: The longest time of what the round measures; see its line.
    slowest: float = 0.0

    def plus(self, other: "Figures") -> "Figures":
        """Both together."""
        return Figures(
            self.rounds + other.rounds,
            self.acknowledged + other.acknowledged,
            self.refused + other.refused,
            self.lost + other.lost,
            self.twice + other.twice,
            self.uncertain + other.uncertain,
            max(self.slowest, other.slowest),
        )


@define
class Account:
    """Compares what was acknowledged with what arrived, round by round on one sink."""

    sink: CountingSink
    _uncertain: set[str] = field(factory=set)
    _seen_twice: set[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._seen_twice = self.sink.twice()

    def close(self, acknowledged: set[str], nodes: Sequence[Node], *, bound: int) -> Figures:
        """One round's figures. `bound` is how many may be in flight at once. Raises `Broken`."""
        missing = self.sink.missing(acknowledged)
        if missing:
            raise Broken(f"{len(missing)} of {len(acknowledged)} acknowledged mails lost: {sorted(missing)[:10]}")
        for node in nodes:
            node.journal.read()
        uncertain = set[str]().union(*(node.journal.uncertain for node in nodes))
        new_uncertain = uncertain - self._uncertain
        self._uncertain |= uncertain
        new = self.sink.twice() - self._seen_twice
        self._seen_twice |= new
        if unexplained := new - self._uncertain:
            raise Broken(f"{len(unexplained)} mails came twice, not recorded as uncertain: {sorted(unexplained)[:10]}")
        if len(new) > bound:
            raise Broken(f"{len(new)} mails came twice, more than the {bound} that can be in flight")
        return Figures(acknowledged=len(acknowledged), twice=len(new), uncertain=len(new_uncertain))
