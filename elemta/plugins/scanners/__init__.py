"""Scanners: plugins that have each whole mail read by another program."""
