"""A process that does not end by itself ends all the same; one that does is not kept."""

import subprocess
import sys
import time

#: A task that swallows its cancellation, in a process that is to end in half a second.
STUBBORN = """
import sys, trio
from elemta.observe.log import make_logger
from elemta.supervisor.last_resort import end_within

async def stubborn():
    while True:
        try:
            await trio.sleep(0.1)
        except BaseException:
            pass

async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stubborn)
        end_within(0.5, make_logger("info", "json", sys.stderr))
        nursery.cancel_scope.cancel()

trio.run(main)
"""

ORDERLY = """
import sys
from elemta.observe.log import make_logger
from elemta.supervisor.last_resort import end_within
end_within(600, make_logger("info", "json", sys.stderr))
"""


def test_what_never_ends_is_ended() -> None:
    done = subprocess.run([sys.executable, "-c", STUBBORN], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert '"event":"server.does_not_end"' in done.stderr


def test_what_ends_is_not_kept() -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", ORDERLY], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 50
