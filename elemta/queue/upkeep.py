"""The hourly removal of what the queue need not keep any more.

What is not here: what a store removes by itself (content that no mail refers to).
Failures raised: none; a store that is away is asked again an hour later.
"""

import trio

from elemta.queue.workshop import Workshop
from elemta.storage.base import Retention, StoreUnavailable
from elemta.storage.records import QueueState

#: The original's interval.
UPKEEP_SECONDS = 3600.0
#: Staged content that no mail refers to: longer than any session lives, and than a store may take to come back.
STAGED_HOURS = 24.0
#: Mails removed in one call, so that commits of others come between.
REMOVE_MAILS = 500
_HOUR = 3600.0


async def keep_house(shop: Workshop) -> None:
    """Clean up now, then each hour, until cancelled."""
    while True:
        try:
            await clean_up(shop)
            await measure(shop)
        except StoreUnavailable as error:
            shop.log.warning("queue.cleanup_failed", error=str(error))
        await trio.sleep(UPKEEP_SECONDS)


async def clean_up(shop: Workshop) -> int:
    """Remove finished mail and records that are past their retention; returns how many mails went."""
    options = shop.options
    now = shop.runtime.clock.wall()
    retention = Retention(
        delivered_before=now - options.message_retention_hours * _HOUR,
        failed_before=now - options.failed_retention_hours * _HOUR,
        attempts_before=now - options.message_retention_hours * _HOUR,
        staged_before=now - STAGED_HOURS * _HOUR,
        limit=REMOVE_MAILS,
    )
    total = 0
    while True:
        removed = await shop.store.cleanup(retention)
        total += removed
        if removed < REMOVE_MAILS:
            break
    if total:
        shop.log.info("queue.cleaned_up", removed=total)
    return total


async def measure(shop: Workshop) -> dict[QueueState, int]:
    """Count the mails in each state, for the metrics and for who asks."""
    counts = dict(await shop.store.counts())
    for state in QueueState:
        shop.metrics.queue_size.labels(state.value).set(counts.get(state, 0))
    return counts
