"""Configuration: frozen classes from JSON."""
