"""SASL mechanisms without I/O (RFC 4422)."""
