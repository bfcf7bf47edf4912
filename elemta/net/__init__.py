"""Listeners and streams under one narrow interface."""
