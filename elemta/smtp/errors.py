"""The failures that the machines of this room raise.

What is not here: what the other side did wrong. That is answered with a reply, or told by an event, never raised.
"""


class LocalProtocolError(Exception):
    """Our own driver did what the protocol does not allow: a reply nobody waits for, or one of the wrong kind."""
