"""One connection to a milter: the machine with a stream, under deadlines.

What is not here: what is told when (`milter.visit`). Failure raised: `MilterFailed`, whatever goes wrong; then, or
when a call is cancelled, the connection is of no use any more: `abort` it.
"""

from typing import Final, Self

import trio
from attrs import field, frozen

from elemta.net.base import Endpoint, Stream
from elemta.plugins.api import Host, PluginFailed
from elemta.plugins.dialing import Unreached, connect
from elemta.plugins.milter.address import MilterAddress
from elemta.plugins.milter.body import NoRoom, OtherBody
from elemta.plugins.milter.changes import Asked
from elemta.plugins.milter.events import (
    NEED_DATA,
    BodyReplaced,
    Decision,
    Modification,
    Negotiated,
    Progress,
    ReplyCode,
)
from elemta.plugins.milter.machine import MilterConnection
from elemta.plugins.milter.wire import MilterClosed, MilterProtocolError
from elemta.runtime.budget import ByteBudget

#: Octets that may wait to be sent while no answer is due: what a filter takes without answering goes out together.
MAX_WAITING_OCTETS: Final = 64 * 1024
#: Seconds for the farewell: nobody waits for its answer, there is none.
FAREWELL_SECONDS: Final = 5.0


class MilterFailed(PluginFailed):
    """The milter could not be asked, or did not answer as it must; says which milter and why."""


class MilterGone(MilterFailed):
    """The milter has ended the connection; on a new one it may answer."""


@frozen
class Settled:
    """A filter's decision, with all that it asked for before."""

    decision: Decision | ReplyCode
    asked: Asked = field(factory=Asked)


class Link:
    """One connection. `machine` is told what happened, `settle` sends it and gives the decision."""

    __slots__ = ("_address", "_room", "_stream", "_waiting", "machine")

    def __init__(self, stream: Stream, address: MilterAddress, room: ByteBudget) -> None:
        """`room` is for bodies while they come."""
        self._room = room
        self.machine = MilterConnection()
        self._stream = stream
        self._address = address
        #: What was told and not sent yet.
        self._waiting = bytearray()

    @classmethod
    async def open(cls, host: Host, address: MilterAddress, *, room: ByteBudget, seconds: float) -> Self:
        """Connect and negotiate, within so many seconds. Raises `MilterFailed`."""
        try:
            with trio.fail_after(seconds):
                where = Endpoint(address.path or address.host, address.port)
                link = cls(await connect(host, where, seconds=seconds), address, room)
                link.machine.negotiate()
                try:
                    await link._exchange()
                except BaseException:
                    link.abort()
                    raise
                return link
        except Unreached as error:
            raise MilterFailed(f"the milter at {address} cannot be reached: {error}") from error
        except trio.TooSlowError:
            raise MilterFailed(f"the milter at {address} did not answer within {seconds:g} s") from None

    async def settle(self, seconds: float) -> Settled:
        """Send what was told and wait for the decision, if one is due: so many seconds, and as many again whenever
        the filter says that it is at work. Raises `MilterFailed`."""
        machine = self.machine
        self._waiting += machine.data_to_send()
        if not machine.awaits and len(self._waiting) < MAX_WAITING_OCTETS:
            return Settled(Decision.CONTINUE)
        try:
            with trio.fail_after(seconds) as scope:
                return await self._exchange(scope, seconds)
        except trio.TooSlowError:
            raise MilterFailed(f"the milter at {self._address} did not answer within {seconds:g} s") from None

    async def _exchange(self, scope: trio.CancelScope | None = None, seconds: float = 0.0) -> Settled:
        try:
            await self._send()
            body = OtherBody(self._room)
            try:
                return await self._decision(body, scope, seconds)
            finally:
                body.release()
        except NoRoom as error:
            raise MilterFailed(
                f"the milter at {self._address} gives another body, and there is no room: {error}"
            ) from None
        except MilterClosed as error:
            raise MilterGone(f"the milter at {self._address}: {error}") from error
        except MilterProtocolError as error:
            raise MilterFailed(f"the milter at {self._address} broke the protocol: {error}") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise MilterGone(f"the connection to the milter at {self._address} broke: {error}") from error

    async def _send(self) -> None:
        data = bytes(self._waiting) + self.machine.data_to_send()
        self._waiting.clear()
        if data:
            await self._stream.send_all(data)

    async def _decision(self, body: OtherBody, scope: trio.CancelScope | None, seconds: float) -> Settled:
        machine = self.machine
        modifications: list[Modification] = []
        while machine.awaits:
            event = machine.next_event()
            match event:
                case Decision() | ReplyCode():
                    return Settled(event, Asked(modifications, body.whole()))
                case BodyReplaced(octets):
                    body.add(octets)
                case Progress():
                    if scope is not None:
                        scope.deadline = trio.current_time() + seconds
                case Negotiated():
                    pass
                case _ if event is NEED_DATA:
                    machine.receive_data(bytes(await self._stream.receive_some()))
                case _:
                    modifications.append(event)
        return Settled(Decision.CONTINUE)

    async def close(self) -> None:
        """Say goodbye and close. Never raises but for cancellation."""
        try:
            with trio.move_on_after(FAREWELL_SECONDS):
                if not self.machine.awaits:
                    self.machine.quit()
                    await self._send()
                await self._stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once; never raises."""
        self._stream.abort()
