"""The network under one narrow interface."""
