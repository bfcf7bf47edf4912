"""Queue storage behind one contract."""
