"""Inbound connections, from accept to submit."""
