"""A program that writes plugins' state to SQLite until it is stopped, and says what was acknowledged.

`python state_writer.py DIRECTORY` goes on where the last one ended: each line is the number of a batch that counts, and
that keeps its number under a key of its own.
"""

import sys
import time
from itertools import count
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from elemta.storage.keyvalue import Add, Answer, Get, Put
from elemta.storage.keyvalue_file import StateFile

NAMESPACE, COUNTER, DAY_SECONDS = "one", "counter", 86_400.0


def main(folder: Path) -> None:
    file = StateFile(folder)
    file.open()
    (found,) = file.carry_out([Get(NAMESPACE, COUNTER)], time.time())
    assert isinstance(found, Answer)
    for number in count(int(found.value or b"0") + 1):
        batch = (Add(NAMESPACE, COUNTER, 1, DAY_SECONDS), Put(NAMESPACE, f"{number}", b"", DAY_SECONDS))
        counted, _ = file.carry_out(batch, time.time())
        assert counted == Answer(b"%d" % number)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
