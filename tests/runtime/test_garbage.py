"""The collector of cyclic garbage, in a process of its own, since it is the process's."""

import subprocess
import sys

_SCRIPT = """
import gc
from elemta.runtime.garbage import YOUNG_OBJECTS, settle

class Node: pass

import weakref
there = [Node() for _ in range(1000)]
settle()
assert not any(isinstance(one, Node) for one in gc.get_objects()), "what is there is looked at no more"
assert gc.get_threshold()[0] == YOUNG_OBJECTS
first, second = Node(), Node()
first.other, second.other = second, first
gone = weakref.ref(first)
del first, second
kept = [[] for _ in range(2 * YOUNG_OBJECTS)]
assert gone() is None, "cycles that came later are found"
"""


def test_what_is_there_is_left_alone_and_later_cycles_are_found() -> None:
    subprocess.run([sys.executable, "-c", _SCRIPT], check=True)
