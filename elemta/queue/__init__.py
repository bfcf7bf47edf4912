"""The queue: what is tried when."""
