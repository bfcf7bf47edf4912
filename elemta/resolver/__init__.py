"""DNS for mail."""
