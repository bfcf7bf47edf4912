"""Plugins: their interface, the chain that asks them, those that come with Elemta."""
