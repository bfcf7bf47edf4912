"""The simulated world: the real server on virtual parts."""
