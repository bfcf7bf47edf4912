"""`python -m elemta.simulation`: run many seeds of the simulated world.

What is not here: anything; the command lives with the invariants in `elemta.testing.campaign`. That room stands above
this one, so it is run by its name like any program, not imported.
"""

import runpy

runpy.run_module("elemta.testing.campaign", run_name="__main__", alter_sys=True)
