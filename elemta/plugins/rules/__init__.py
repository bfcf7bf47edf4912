"""The original's rules, written in JSON that is checked when the server starts."""
