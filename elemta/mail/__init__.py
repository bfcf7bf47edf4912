"""The vocabulary of mail: addresses, envelopes, replies, outcomes."""
