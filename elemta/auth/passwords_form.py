"""What the forms of stored passwords share.

What is not here: the forms (`auth.passwords_…`), which of them a stored password has (`auth.passwords`). Failures
raised: `UnknownForm`.
"""

from collections.abc import Callable

from attrs import frozen


class UnknownForm(Exception):
    """A stored password in no form that we check, or beyond its bounds. The text does not repeat it."""


@frozen
class Form:
    """A stored password, understood.

    `fits` blocks; it takes a password in UTF-8 without NUL and says whether it is the one, in constant time as far as
    octets are compared. It raises `UnknownForm` where that turns out only then. `current` says that there is no reason
    to hash the password anew.
    """

    fits: Callable[[bytes], bool]
    current: bool = False


def bounded(what: str, number: int, most: int) -> int:
    """A number of a stored password. Raises `UnknownForm` when it asks for more work than anybody may ask of us."""
    if number > most:
        raise UnknownForm(f"{what}: {number}, at most {most}")
    return number
