"""The room for requests on their way in: so many at a time, and callers take turns.

gRPC holds whatever has arrived. A call of the service therefore asks for its message only when it has a place
here; until then HTTP/2's windows hold its client back. A small message gives its place up once it is there. A
large one keeps it until it is counted elsewhere: a partition that is locked or slow holds up no other's.

A message that is slow to arrive goes on without a place, and waits for one again when it is there and large.
How many may be slow has a bound of its own; beyond it one is refused, of the caller that has the most. Those
that are slow have their turns after the others for a while (places.py).

A produce stream may be quiet for as long as it likes, so its messages are pulled as stream_reads.py says. One
that is not small waits for a place before it is parsed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from takhin.errors import InvalidArgumentError, OverloadedError, ShuttingDownError, TakhinError
from takhin.rpc.call_quotas import StreamQuota
from takhin.rpc.parsing import Parsed, Room
from takhin.rpc.places import GOOD, TROUBLED, Place, Places, Source
from takhin.rpc.stream_reads import Read, StreamReads
from takhin.settings import RpcSettings

SMALL_BYTES = 64 << 10
"""Up to this size a message does not keep its place: gRPC holds as much of every call anyway."""
PATIENCE_SECONDS = 0.5
"""A message that is not there by then goes on without a place, so that it holds nobody up."""
SHORT_PATIENCE_SECONDS = 0.02
"""The same while others wait, for connections that were not slow before. Many large messages at once are not
there so soon either; so it applies only while few are slow, and is no reason to come last afterwards."""
NEVER = float("inf")

Parse: TypeAlias = Callable[[bytes, Room], Awaitable[Parsed]]


class Ticket:
    """One call on its way in."""

    def __init__(self, source: Source, place: Place) -> None:
        self.source = source
        self.place = place
        self.began = asyncio.get_running_loop().time()
        self.limit: asyncio.Timeout | None = None
        self.refusal: TakhinError | None = None
        self.size_bytes = 0

    def refuse(self, error: TakhinError) -> None:
        """Let the call fail if its message is still not there."""
        if self.limit is not None:
            self.refusal = error
            self.limit.reschedule(asyncio.get_running_loop().time())


_ticket: ContextVar[Ticket | None] = ContextVar("ticket", default=None)
"""That of the call whose task is running."""


def taken_over() -> None:
    """Give the running call's place up: what its request holds is counted elsewhere from now on."""
    ticket = _ticket.get()
    if ticket is not None:
        ticket.place.give_up()


def size_bytes() -> int:
    """The size of the running call's only request, decompressed."""
    ticket = _ticket.get()
    return 0 if ticket is None else ticket.size_bytes


@dataclass(slots=True)
class Arrival:
    """A request of a stream.

    leave: gives its place up; to be called in every case, as often as one likes.
    throttled_ms: for so long it was held back by a quota.
    """

    request: Any
    size_bytes: int
    leave: Callable[[], None]
    throttled_ms: int

    def take(self) -> Any:
        """The request, which is kept here no longer: who waits for the next one is not to keep this one."""
        request, self.request = self.request, None
        return request


class Arrivals:
    """Pulls the message of each call when there is a place for it."""

    def __init__(self, number: int, settings: RpcSettings) -> None:
        self._wait_ms = settings.arrival_ms_max
        self._slow_max = settings.slow_arrivals_max
        self._places = Places(number, self._wait_ms / 1_000)
        self._stream_reads = StreamReads(number)
        self._pulled: dict[Ticket, None] = {}  # those that hold a place; the oldest first
        self._slow: dict[Ticket, None] = {}  # the oldest first
        self._hasty: dict[Ticket, None] = {}  # of the slow ones, those that had less time than others have
        self._next_look = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._ending = False

    @asynccontextmanager
    async def request(self, context: Any, source: Source, parse: Parse) -> AsyncIterator[list[Any]]:
        """The call's request, in a list: who takes it out is the only one to keep it.

        Raises OverloadedError if it does not come in time, and ShuttingDownError.
        """
        ticket = Ticket(source, await self._place(source))
        _ticket.set(ticket)

        async def room() -> None:
            if not ticket.place.held:
                ticket.place = await self._place(source)

        try:
            message = await self._message(context, ticket)
            if len(message) <= SMALL_BYTES:
                ticket.place.give_up()
            else:
                await room()
            self._slow.pop(ticket, None)
            request, ticket.size_bytes = await parse(message, room)
            del message
            if ticket.size_bytes <= SMALL_BYTES:  # it was compressed
                ticket.place.give_up()
            taken = [request]
            del request
            yield taken
        finally:
            self._slow.pop(ticket, None)
            ticket.place.give_up()

    async def requests(
        self,
        messages: AsyncIterator[bytes],
        source: Source,
        parse: Parse,
        quota: StreamQuota,
        *,
        begun: bool = False,
    ) -> AsyncGenerator[Arrival, None]:
        """The requests of a stream, each read within the caller's quota, and parsed when there is a place.

        begun: its first request has come by another way.
        """
        async with aclosing(self._stream_reads.messages(messages, source, quota, begun=begun)) as pulled:
            async for read in pulled:
                yield await self._arrival(read, source, parse, quota)

    async def _arrival(self, read: Read, source: Source, parse: Parse, quota: StreamQuota) -> Arrival:
        """The request of a message."""
        message = read.message.pop()
        raw_bytes = len(message)
        places = [] if read.place is None else [read.place]

        async def room() -> None:
            if len(places) == (read.place is not None):  # not asked for yet
                places.append(await self._place(source))

        def leave() -> None:
            for place in places:
                place.give_up()

        try:
            if raw_bytes > SMALL_BYTES:
                await room()
            request, size_bytes = await parse(message, room)
        except BaseException:
            leave()
            raise
        quota.parsed(request, size_bytes - raw_bytes)
        if size_bytes <= SMALL_BYTES:
            leave()
        return Arrival(request, size_bytes, leave, read.throttled_ms)

    def end(self) -> None:
        """Refuse every call that waits for a place or for its message, because the broker stops.

        One that comes later is refused if it would have to wait for either.
        """
        self._ending = True
        self._places.refuse(ShuttingDownError())
        for ticket in (*self._pulled, *self._slow):
            ticket.refuse(ShuttingDownError())

    async def _place(self, source: Source) -> Place:
        """Return with a place. While others wait those that hold one have less time."""
        place = self._places.take(source)
        if place is None:
            if self._ending:
                raise ShuttingDownError
            self._look_in_time()
            place = await self._places.wait(source)
        return place

    async def _message(self, context: Any, ticket: Ticket) -> bytes:
        self._pulled[ticket] = None
        self._look_by(ticket.began + self._patience(ticket))
        try:
            seconds = PATIENCE_SECONDS if self._ending else self._wait_ms / 1_000
            async with asyncio.timeout(seconds) as ticket.limit:
                message = await context.read()
        except TimeoutError:
            if self._ending:
                raise ShuttingDownError from None
            self._places.trouble(ticket.source)
            raise ticket.refusal or OverloadedError(
                f"the request did not arrive within {self._wait_ms} ms (rpc.arrival_ms_max)"
            ) from None
        finally:
            self._pulled.pop(ticket, None)
            self._hasty.pop(ticket, None)
            ticket.limit = None
        if message is grpc.aio.EOF:
            raise InvalidArgumentError("the call has ended without a request")
        arrived: bytes = message
        return arrived

    def _patience(self, ticket: Ticket) -> float:
        """How many seconds a message has before it goes on without a place."""
        standing = ticket.place.standing
        if not self._places.awaited or standing == TROUBLED:
            return PATIENCE_SECONDS
        hasty_max = self._slow_max // (4 if standing == GOOD else 2)
        return SHORT_PATIENCE_SECONDS if len(self._slow) < hasty_max else PATIENCE_SECONDS

    def _look_by(self, when: float) -> None:
        """Look for messages that are late, at that time or before."""
        if when >= self._next_look:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._next_look = when
        self._timer = asyncio.get_running_loop().call_at(when, self._look)

    def _look_in_time(self) -> None:
        """Look when the next message will be late, if there is one."""
        if self._pulled:
            self._look_by(min(ticket.began + self._patience(ticket) for ticket in self._pulled))
        if self._hasty:
            self._look_by(next(iter(self._hasty)).began + PATIENCE_SECONDS)

    def _look(self) -> None:
        self._next_look, self._timer = NEVER, None
        now = asyncio.get_running_loop().time()
        for ticket in [ticket for ticket in self._hasty if ticket.began + PATIENCE_SECONDS <= now]:
            del self._hasty[ticket]
            self._places.trouble(ticket.source)
        for ticket in list(self._pulled):
            if ticket.began + self._patience(ticket) <= now:
                self._is_slow(ticket, now)
        self._look_in_time()

    def _is_slow(self, ticket: Ticket, now: float) -> None:
        """The message takes its time: it goes on without a place, unless too many do."""
        del self._pulled[ticket]
        self._slow[ticket] = None
        if ticket.began + PATIENCE_SECONDS <= now:
            self._places.trouble(ticket.source)
        else:
            self._hasty[ticket] = None
        ticket.place.give_up()
        if len(self._slow) > self._slow_max:
            self._refuse_one()

    def _refuse_one(self) -> None:
        """Refuse the newest one of the owner that has the most, and of its connection that has the most."""
        slow = [ticket for ticket in reversed(self._slow) if ticket.limit is not None and not ticket.refusal]
        of = Counter(name for ticket in slow for name in ticket.source)
        if slow:
            worst = max(slow, key=lambda ticket: tuple(of[name] for name in ticket.source))
            worst.refuse(
                OverloadedError(
                    f"{self._slow_max} requests are slow to arrive (rpc.slow_arrivals_max), the most "
                    "of them from this client"
                )
            )
