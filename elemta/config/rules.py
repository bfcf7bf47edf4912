"""The keys of rules, the original's first.

What is not here: the rules themselves, which are files of their own (`plugins.rules`).
"""

import enum
from typing import Annotated

from attrs import frozen

from elemta.config.kinds import About, Bool, Words


class DefaultAction(enum.Enum):
    """What becomes of a mail (a session, a recipient) about which no rule of a stage decided."""

    ACCEPT = "accept"
    REJECT = "reject"
    DEFER = "defer"
    DISCARD = "discard"
    QUARANTINE = "quarantine"


@frozen
class RulesSection:
    """Rules that look at mails and decide about them; docs/rules.md tells how they are written."""

    enabled: Annotated[Bool, About("Whether the rules in `path` are applied.")] = False
    path: Annotated[Words, About("The folder of the rules: its files `*.json`, in the order of their names.")] = (
        "./rules"
    )
    default_action: Annotated[
        DefaultAction,
        About("What becomes of a mail when no rule of a stage decides; holds at each stage that has rules."),
    ] = DefaultAction.ACCEPT
    dry_run: Annotated[Bool, About("Whether rules are only told of in the log, and nothing is done.")] = False
