"""Who may log in: mechanisms, passwords, users."""
