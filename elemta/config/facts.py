"""What checks of a configuration may know beside it.

What is not here: finding it out (`config.load`), so that a check can be shown any machine.
"""

from collections.abc import Callable

from attrs import frozen


@frozen
class Facts:
    """Answers about files, by name."""

    #: Whether there is one.
    exists: Callable[[str], bool]
    #: Whether there is a folder.
    is_folder: Callable[[str], bool] = lambda _: True
    #: Why certificates of authorities cannot be had of it, empty where they can; see `config.authorities`.
    authorities: Callable[[str], str] = lambda _: ""
    #: Whether users that are neither its owner nor of its group may read it.
    open_to_others: Callable[[str], bool] = lambda _: False
