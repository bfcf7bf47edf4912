"""How the sendmail program ends.

What is not here: what went wrong (whoever raises it says so). The numbers are those of BSD's sysexits.h, which every
program that calls sendmail knows. Failure raised: `Trouble`, which is one of them with a sentence.
"""

import enum
from typing import Final


class SysExit(enum.IntEnum):
    """How the program ended, for programs."""

    OK = 0
    #: An option or an address that nobody understands.
    USAGE = 64
    #: The mail itself cannot be sent.
    DATAERR = 65
    #: There is nothing to read.
    NOINPUT = 66
    #: A recipient does not exist.
    NOUSER = 67
    #: The server refused the mail for good.
    UNAVAILABLE = 69
    #: An error of ours.
    SOFTWARE = 70
    #: The server is not there, or cannot now: the same may work later.
    TEMPFAIL = 75
    #: The configuration cannot be used.
    CONFIG = 78


#: What is before every line on standard error.
PROGRAM: Final = "sendmail"


class Trouble(Exception):
    """The mail was not sent, or not to everybody: `says` is for a person, `status` for a program."""

    def __init__(self, status: SysExit, says: str) -> None:
        super().__init__(says)
        self.status = status
        self.says = says
