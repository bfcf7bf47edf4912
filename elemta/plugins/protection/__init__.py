"""Bundled plugins that keep unwanted clients at a distance, each off unless it is named in the configuration."""
