"""What is shipped for authors of plugins, as `-p elemta.testing.plugin` would load it."""

from elemta.testing.plugin import plugin_bench as plugin_bench
from elemta.testing.plugin import pytest_pyfunc_call as pytest_pyfunc_call
from elemta.testing.plugin import simulated_world as simulated_world
