"""What the queue takes in.

What is not here: how it was received (`inbound`), or how it is stored (`queue.service`).
"""

from attrs import frozen

from elemta.mail.envelope import Envelope, Priority
from elemta.storage.records import ContentRef, Origin


@frozen
class Submission:
    """A whole mail, decided upon, trace fields added. `id` is the id the client will be told.

    `content` holds its octets when they fit in line (`INLINE_CONTENT_OCTETS`); otherwise they were staged, and
    `ref.id` names them.
    """

    id: str
    envelope: Envelope
    ref: ContentRef
    content: bytes | None
    priority: Priority = Priority.NORMAL
    origin: Origin = Origin()


class SubmissionTimeout(Exception):
    """The store did not answer in time: the client is told 451, and the mail is withdrawn should it still land."""
