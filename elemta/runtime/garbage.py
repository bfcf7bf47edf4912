"""What the collector of cyclic garbage looks at.

Nearly everything of a mail is freed by its reference count; the collector is for the few cycles. Left as it is, it goes
through all modules and classes again and again: measured, 30 ms in which nobody is served, each 2,500 mails, and a
twentieth of the processor time of a mail in all. What is not here: memory that the system is given back
(`runtime.memory`). Nothing is raised.
"""

import gc
from typing import Final

#: Objects that may come in excess of those that go before the youngest are looked at; Python's own is 700. Cycles wait
#: for so many at most: about a megabyte.
YOUNG_OBJECTS: Final = 5000


def settle() -> None:
    """Leave alone for good what is there now. To be called once, when everything that stays has been made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
