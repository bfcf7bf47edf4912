"""Elemta, a mail server on Trio: it receives, queues, delivers mail.

The rooms below this package follow the road of one mail; `docs/tour.md` walks it. Nothing lives here but the version.
"""

__version__ = "0.1.0"
