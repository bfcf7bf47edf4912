"""Connections kept between mails.

What is not here: opening them (`delivery.session`), or the recovery from one that went stale (`delivery.smtp`).
The newest is reused first, so that the surplus of a busy hour ages and is closed. Failures raised: none.
"""

from typing import Final

import trio

from elemta.delivery.session import QUIT_SECONDS, PoolKey, Session

#: Idle connections in all: each holds a descriptor here and a process on many hosts.
MAX_IDLE_CONNECTIONS: Final = 500

#: Seconds a connection waits for its next mail. Hosts wait 5 minutes for a command (RFC 5321 §4.5.3.2.7), but a
#: connection that idles is one that others cannot have; Postfix keeps them 2 s (`smtp_connection_cache_time_limit`).
IDLE_SECONDS: Final = 10.0

#: Seconds after which no further mail goes over a connection, as Postfix's `smtp_connection_reuse_time_limit`: so
#: that changed preferences and mended hosts are found again.
REUSE_SECONDS: Final = 300.0

#: Mails over one connection, as Exim's `connection_max_messages`.
MAX_MAILS: Final = 500


class ConnectionPool:
    """Idle sessions by what they may be reused for. It owns no session that is in use.

    `run` closes those that nobody wants any more; while it does not run, they stay until `close_all` or the bound.
    """

    def __init__(
        self,
        *,
        max_idle: int = MAX_IDLE_CONNECTIONS,
        idle_seconds: float = IDLE_SECONDS,
        reuse_seconds: float = REUSE_SECONDS,
        max_mails: int = MAX_MAILS,
    ) -> None:
        self._max_idle = max_idle
        self._idle_seconds = idle_seconds
        self._reuse_seconds = reuse_seconds
        self._max_mails = max_mails
        #: Session → when it expires; in the order they were given, which is the order they expire in.
        self._idle: dict[Session, float] = {}
        self._by_key: dict[PoolKey, list[Session]] = {}
        self._wake = trio.Event()
        self._closed = False

    @property
    def idle(self) -> int:
        """Connections that nobody uses."""
        return len(self._idle)

    def take(self, key: PoolKey) -> Session | None:
        """The newest idle session, which is the caller's from now on."""
        sessions = self._by_key.get(key)
        if not sessions:
            return None
        session = sessions[-1]
        if self._idle[session] <= trio.current_time():
            return None  # the older ones expired before it; `run` says goodbye to them
        self._remove(session)
        return session

    async def give(self, session: Session) -> None:
        """Keep a session that is ready for another mail, or close it.

        Not cancelled: what was settled over it must reach the caller. The wait for a goodbye is bounded.
        """
        now = trio.current_time()
        worn = session.mails >= self._max_mails or now >= session.opened_at + self._reuse_seconds
        if worn or self._closed or not self._max_idle:
            await _say_goodbye(session)
            return
        victim = next(iter(self._idle)) if len(self._idle) >= self._max_idle else None
        if victim is not None:
            self._remove(victim)
        self._idle[session] = now + self._idle_seconds
        self._by_key.setdefault(session.key, []).append(session)
        if len(self._idle) == 1:
            self._wake.set()
        if victim is not None:
            await _say_goodbye(victim)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Close what expires; when cancelled, close everything, within `session.QUIT_SECONDS`."""
        task_status.started()
        try:
            async with trio.open_nursery() as goodbyes:
                while True:
                    await self._wait_for_expiry()
                    for session in self._expired():
                        self._remove(session)
                        goodbyes.start_soon(_say_goodbye, session)
        finally:
            # Each goodbye bounds itself by `QUIT_SECONDS`, and all are said at once.
            with trio.move_on_after(QUIT_SECONDS + 1.0, shield=True):
                await self.close_all()

    async def close_all(self) -> None:
        """Say goodbye to all at once. What is given later is closed at once."""
        self._closed = True
        sessions = list(self._idle)
        self._idle.clear()
        self._by_key.clear()
        async with trio.open_nursery() as goodbyes:
            for session in sessions:
                goodbyes.start_soon(session.quit)

    async def _wait_for_expiry(self) -> None:
        if not self._idle:
            self._wake = trio.Event()
            await self._wake.wait()
        await trio.sleep_until(next(iter(self._idle.values()), trio.current_time()))

    def _expired(self) -> list[Session]:
        now = trio.current_time()
        found = []
        for session, expiry in self._idle.items():
            if expiry > now:
                break
            found.append(session)
        return found

    def _remove(self, session: Session) -> None:
        del self._idle[session]
        sessions = self._by_key[session.key]
        if sessions[-1] is session:
            sessions.pop()
        else:
            sessions.remove(session)
        if not sessions:
            del self._by_key[session.key]


async def _say_goodbye(session: Session) -> None:
    with trio.CancelScope(shield=True):  # `quit` bounds itself
        await session.quit()
