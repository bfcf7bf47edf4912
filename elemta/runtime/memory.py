"""The memory of this process, as the system sees it.

What is not here: when to look at it or give some back (`supervisor.memory`). Both calls block: the file is one of the
kernel's, so a look takes microseconds, but giving back hundreds of MiB takes tens of milliseconds.
Failures raised: none.
"""

import ctypes
import os
from typing import Final, Protocol

#: Resident memory is the second number of this file, in pages: proc(5).
_STATM: Final = "/proc/self/statm"


class Memory(Protocol):
    """The memory of a process."""

    def resident_octets(self) -> int:
        """Octets of physical memory that the process holds; 0 where the system does not say."""
        ...

    def give_back(self) -> None:
        """Return to the system what was freed, and is only kept for the next time."""
        ...


class SystemMemory:
    """This process under Linux.

    The GNU C library keeps freed memory that lies below memory in use, for each thread that ever allocated: after a
    flood of large mails that is most of what the flood needed. Its `malloc_trim` returns the whole pages. Other
    libraries (musl) have no such function, and `give_back` does nothing there.
    """

    def __init__(self) -> None:
        # PyDLL would hold the interpreter's lock, and with it the event loop, for as long as the call takes.
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if self._trim is not None:
            self._trim.argtypes = [ctypes.c_size_t]

    def resident_octets(self) -> int:
        """Octets of physical memory that the process holds; 0 where the system does not say."""
        try:
            with open(_STATM, "rb") as file:
                pages = int(file.read().split()[1])
        except OSError:
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def give_back(self) -> None:
        """Return to the system what was freed, and is only kept for the next time."""
        if self._trim is not None:
            self._trim(0)
