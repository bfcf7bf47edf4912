"""What the operator decided about the queue.

What is not here: where it was written down (`config`); the supervisor makes one of these from it.
"""

from attrs import frozen

from elemta.queue.schedule import RetryPolicy

#: One attempt, from routing to the last reply: the sum of what RFC 5321 §4.5.3.2 grants a server for the greeting,
#: MAIL, RCPT, DATA, one block and the final reply (5 + 5 + 5 + 2 + 3 + 10 minutes).
ATTEMPT_SECONDS = 1800.0
#: Ours: about 2 KiB a mail without its content (which has a budget of its own); enough to take a burst of seconds
#: without reading any of it back from the store.
WAITING_MAILS = 10_000
#: Ours: a clock that was set back for hours is noticed within a minute.
LOOK_SECONDS = 60.0


@frozen
class QueueOptions:
    """Settings of one node's queue. Durations are seconds unless the name says hours.

    `node` names the owner of this node's mails, the same after a restart. `hostname` is what reports say of us.
    """

    node: str
    hostname: str
    retry: RetryPolicy
    max_queue_time: float = 172_800.0
    max_workers: int = 100
    keep_delivered: bool = False
    message_retention_hours: float = 168.0
    #: 0: a failed mail goes as soon as its bounce is queued.
    failed_retention_hours: float = 0.0
    #: Seconds of waiting that raise a mail by one priority; None: strict priorities.
    ageing: float | None = None
    attempt_seconds: float = ATTEMPT_SECONDS
    #: How long this node may be silent before others adopt its mails; None where the queue is this process's alone.
    lease: float | None = None
    #: Longest time between two looks at what is due: clocks step, and other nodes put mail into a shared queue.
    look_seconds: float = LOOK_SECONDS
    #: Mails of each priority that may wait in memory. What waits here waits for this node alone, though another of a
    #: shared queue may be idle.
    waiting_mails: int = WAITING_MAILS
