"""Fixtures of the simulated world: the ones that are shipped."""

from elemta.testing.plugin import simulated_world as simulated_world
