"""The queue: what is tried when, and what is kept of it."""
