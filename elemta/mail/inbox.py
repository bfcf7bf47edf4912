"""A caught mail as the dev inbox lists it.

What is not here: its octets (`storage.inbox` keeps them beside it), or how it got there (`delivery.inbox`).
"""

from attrs import frozen


@frozen
class InboxEntry:
    """One mail in the dev inbox.

    `id` is the mail's queue id, `reverse_path` is empty for the null reverse-path, `forward_paths` are the recipients.
    `subject` is decoded and printable. `size` is octets of content, `received_at` UTC in seconds since 1970.
    """

    id: str
    reverse_path: str
    forward_paths: tuple[str, ...]
    subject: str
    size: int
    received_at: float
