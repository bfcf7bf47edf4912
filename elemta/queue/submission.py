"""What the queue takes in.

What is not here: how it was received (`inbound`), or how it is stored (`queue.service`).
"""

from collections.abc import Mapping

from attrs import field, frozen

from elemta.mail.envelope import Envelope, Priority
from elemta.storage.records import ContentRef, Origin


@frozen
class Submission:
    """A whole mail, decided upon, trace fields added. `id` is the id the client will be told.

    `content` holds its octets when they fit in line (`INLINE_CONTENT_OCTETS`); otherwise they were staged, and
    `ref.id` names them. A mail with a reason in `held` waits in the queue for an operator. `route` names the way out
    for all recipients, in place of those of their domains.
    """

    id: str
    envelope: Envelope
    ref: ContentRef
    content: bytes | None
    priority: Priority = Priority.NORMAL
    origin: Origin = Origin()
    held: str = ""
    route: str = ""
    annotations: Mapping[str, str] = field(factory=dict)


class SubmissionTimeout(Exception):
    """The store did not answer in time: the client is told 451, and the mail is withdrawn should it still land."""
