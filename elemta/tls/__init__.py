"""Certificates of the server."""
