"""Databases on a server of their own, whatever is kept in them."""
