"""What befalls each node of a world, as it is planned.

What is not here: drawing it from a seed (`simulation.fleet`), or making it happen (`simulation.seat`,
`simulation.link`).
Times are virtual seconds.
"""

from attrs import frozen

from elemta.config.sections import Config

#: A time from its first to its second number, in virtual seconds.
Span = tuple[float, float]


@frozen
class ClockStep:
    """The wall clock jumps by `seconds` at the virtual time `at`."""

    at: float
    seconds: float


@frozen
class Drain:
    """At the virtual time `at` a server is told to stop; what runs has `seconds`."""

    at: float
    seconds: float


@frozen
class Reload:
    """At the virtual time `at` the file says `config`: a server takes it over, or begins its next life with it."""

    at: float
    config: Config


@frozen
class LinkPlan:
    """What a node's way to the store suffers.

    During `cuts` every verb fails, during `hangs` it waits, for `patience` seconds at most. Until `troubled_until` each
    journey takes up to `slow` seconds, and with the probability `loses` a question or its answer is lost.
    """

    cuts: tuple[Span, ...] = ()
    hangs: tuple[Span, ...] = ()
    patience: float = 30.0
    slow: float = 0.0
    loses: float = 0.0
    troubled_until: float = 0.0

    @property
    def is_calm(self) -> bool:
        """True when nothing goes wrong."""
        return not (self.cuts or self.hangs or self.troubled_until)

    @property
    def ends_at(self) -> float:
        """When the last trouble is over."""
        spans = (*self.cuts, *self.hangs)
        return max([0.0, self.troubled_until + 2 * self.slow, *(end + self.patience for _, end in spans)])


@frozen
class NodePlan:
    """One node: the owner of its mails, where it listens, and its troubles.

    At each time of `crashes` its machine stops, each of `drains` ends its life in order; after `downtime` seconds it
    starts anew, unless it never `returns` from its last crash. During `freezes` nothing in it runs. During `rests` an
    operator wants it to take nothing more. `steps` are those of its own wall clock. `reloads` are no trouble.
    """

    name: str
    address: str
    crashes: tuple[float, ...] = ()
    returns: bool = True
    drains: tuple[Drain, ...] = ()
    downtime: float = 3.0
    freezes: tuple[Span, ...] = ()
    rests: tuple[Span, ...] = ()
    steps: tuple[ClockStep, ...] = ()
    reloads: tuple[Reload, ...] = ()
    link: LinkPlan = LinkPlan()

    @property
    def is_calm(self) -> bool:
        """True when nothing goes wrong with it, and nobody gives it orders."""
        troubles = (self.crashes, self.drains, self.freezes, self.rests, self.steps)
        return self.link.is_calm and not any(troubles)

    @property
    def ends_at(self) -> float:
        """When the last trouble is over."""
        over = [end for _, end in (*self.freezes, *self.rests)]
        starts = [at + self.downtime for at in self.crashes]
        starts += [drain.at + drain.seconds + self.downtime for drain in self.drains]
        return max([self.link.ends_at, *over, *starts])
