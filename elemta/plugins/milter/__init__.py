"""Sendmail's milter protocol, spoken from the mail server's side, so that filters made for it work as they are."""
