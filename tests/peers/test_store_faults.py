"""The fault campaign's short form: a few kills of each store, ways to lose a database, one frozen node.

What is not here: what is done and what must hold (`tests.campaign.faults`), and the faults that need a file system of
their own (`test_disk`, `tests.storage`). SQLite is killed in `test_restart`.
"""

from pathlib import Path

import pytest

from tests.campaign.faults import Fault, Plan, run
from tests.campaign.faults_site import Store

KILLS = 2
#: Mails that were taken must leave again, so few are sent.
KILL_SECONDS = (0.3, 0.6)
SENDERS = 1
#: Longer than a client waits for a store that is away, and long enough for `/readyz` to say so.
AWAY_SECONDS = (4.0,)
WAITING_MAILS = 200

#: Chosen for what a build can wait for; `tox -e faults` has all.
PLANS = (
    *(
        Plan(store, Fault.KILL, KILLS, kill_seconds=KILL_SECONDS)
        for store in (Store.FILE, Store.POSTGRESQL, Store.MYSQL)
    ),
    *(Plan(store, Fault.RESTART, 1, mails=WAITING_MAILS) for store in (Store.FILE, Store.POSTGRESQL)),
    *(Plan(Store.POSTGRESQL, fault, 1, AWAY_SECONDS) for fault in (Fault.DATABASE_KILLED, Fault.DATABASE_STOPPED)),
    Plan(Store.MYSQL, Fault.DATABASE_CUT, 1, AWAY_SECONDS),
    Plan(Store.MYSQL, Fault.NODE_PAUSED, 1, senders=SENDERS),
)


@pytest.mark.needs("smtp-source")
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.store.value}-{plan.fault.value}")
def test_a_store_keeps_its_promises(plan: Plan, open_folder: Path) -> None:
    said: list[str] = []
    outcome = run(plan, open_folder / "faults", said.append)
    assert not outcome.broken, "\n".join(said)
    assert outcome.figures.rounds == plan.rounds
    assert outcome.figures.acknowledged > 0
