"""The room for requests on their way in: so many at a time, and connections take turns.

gRPC holds whatever has arrived. A call of the service therefore asks for its message only when it has a place
here; until then HTTP/2's windows hold its client back. A small message gives its place up once it is there. A
large one keeps it until its records are in the queue, whose own limit counts them from there on: a partition
that is locked or slow holds up no other's. One that is slow to arrive goes on without a place. As many may be
slow as there are places; the one that has been for longest gives way.

A produce stream may be quiet for as long as it likes, so its messages are pulled without a place. One that is
not small waits for a place before it is parsed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import grpc

from takhin.errors import InvalidArgumentError, OverloadedError
from takhin.settings import RpcSettings
from takhin.turns import LARGE_BYTES, others_turn

SMALL_BYTES = 64 << 10
"""Up to this size a message does not keep its place: gRPC holds as much of every call anyway."""
PATIENCE_SECONDS = 0.5
"""A message that is not there by then goes on without a place, so that it holds nobody up."""


class Places:
    """A number of places. Those who wait get one in the turn of their connections. Lives on the loop."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._free = number
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the connection whose turn is next first

    async def take(self, peer: str) -> None:
        """Return with a place."""
        if self._free:
            self._free -= 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(peer, deque()).append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # it has just got one
                self.give_back()
            raise

    def give_back(self) -> None:
        """Let the next one have the place."""
        while self._waiting:
            peer = next(iter(self._waiting))
            waiters = self._waiting.pop(peer)
            waiter = waiters.popleft()
            if waiters:
                self._waiting[peer] = waiters  # behind all other connections
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1


class Place:
    """A place of one message. It is given up once, however often that is asked for."""

    def __init__(self, places: Places) -> None:
        self.held = True
        self._places = places

    def give_up(self) -> None:
        """Let others have the place."""
        if self.held:
            self.held = False
            self._places.give_back()


class Ticket(Place):
    """One call on its way in. It gives its place up early if the message is slow or small."""

    def __init__(self, places: Places, slow: dict[Ticket, None]) -> None:
        super().__init__(places)
        self.limit: asyncio.Timeout | None = None
        self._slow = slow

    def is_slow(self) -> None:
        """The message takes its time: it goes on without a place, unless too many do."""
        self.give_up()
        self._slow[self] = None
        if len(self._slow) > self._places.number:
            oldest = next(iter(self._slow))
            del self._slow[oldest]
            oldest.hurry()

    def hurry(self) -> None:
        """Refuse the call if its message is still not there."""
        if self.limit is not None:
            self.limit.reschedule(asyncio.get_running_loop().time())

    def end(self) -> None:
        """The call is answered."""
        self._slow.pop(self, None)
        self.give_up()


_ticket: ContextVar[Ticket | None] = ContextVar("ticket", default=None)
"""That of the call whose task is running."""


def taken_over() -> None:
    """Give the running call's place up: what its request holds is counted elsewhere from now on."""
    ticket = _ticket.get()
    if ticket is not None:
        ticket.give_up()


class Arrival(NamedTuple):
    """A request of a stream. leave: gives its place up; to be called in every case, as often as one likes."""

    request: Any
    leave: Callable[[], None]


class Arrivals:
    """Pulls the message of each call when there is a place for it."""

    def __init__(self, settings: RpcSettings) -> None:
        self._wait_ms = settings.arrival_ms_max
        self._places = Places(settings.arrivals_max)
        self._slow: dict[Ticket, None] = {}  # the oldest first

    @asynccontextmanager
    async def request(self, context: Any, parse: Callable[[bytes], Any]) -> AsyncIterator[list[Any]]:
        """The call's request, in a list: who takes it out is the only one to keep it.

        Raises OverloadedError if it does not come in time.
        """
        await self._places.take(context.peer())
        ticket = Ticket(self._places, self._slow)
        _ticket.set(ticket)
        try:
            message = await self._pulled(context, ticket)
            if len(message) <= SMALL_BYTES:
                ticket.give_up()
            elif len(message) > LARGE_BYTES:
                await others_turn()
            request = [parse(message)]
            del message
            yield request
        finally:
            ticket.end()

    async def requests(
        self, messages: AsyncIterator[bytes], peer: str, parse: Callable[[bytes], Any]
    ) -> AsyncGenerator[Arrival, None]:
        """The requests of a stream, each parsed when there is a place for it."""
        async for message in messages:
            if len(message) <= SMALL_BYTES:
                yield Arrival(parse(message), _no_place)
                continue
            await self._places.take(peer)
            place = Place(self._places)
            try:
                request = parse(message)
            except BaseException:
                place.give_up()
                raise
            del message
            yield Arrival(request, place.give_up)

    async def _pulled(self, context: Any, ticket: Ticket) -> bytes:
        slow = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, ticket.is_slow)
        try:
            async with asyncio.timeout(self._wait_ms / 1_000) as ticket.limit:
                message = await context.read()
        except TimeoutError:
            raise OverloadedError(
                f"the request did not arrive within {self._wait_ms} ms (rpc.arrival_ms_max), or others waited"
            ) from None
        finally:
            slow.cancel()
            ticket.limit = None
        if message is grpc.aio.EOF:
            raise InvalidArgumentError("the call has ended without a request")
        arrived: bytes = message
        return arrived


def _no_place() -> None:
    """Small messages have none to give up."""
