"""A number of places, and whose turn it is to have one: owners in turn, then the connections of each.

The owner of a connection is its principal, or its address where it has none. Owners and connections that keep
others waiting come last, and never have all the places: one is left for other owners, and half of them for
other connections. Everything here lives on the event loop.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import NamedTuple

from takhin.model import ANONYMOUS
from takhin.quotas import address_of
from takhin.rpc.calls import Call

TROUBLES_MAX = 4_096
"""Owners and connections remembered for having kept others waiting."""
GOOD, OF_TROUBLED_OWNER, TROUBLED = 0, 1, 2
"""How a connection stands. The larger the number, the later its turn."""


class Source(NamedTuple):
    """Where a call comes from: its connection, and whose that is."""

    owner: str
    connection: str


def source_of(call: Call) -> Source:
    """The source of a call whose caller is known."""
    caller = call.caller
    if caller.principal == ANONYMOUS:
        return Source(address_of(caller.address), call.peer)
    return Source(f"principal {caller.principal}", call.peer)


class Troubles:
    """The connections and owners whose calls were slow to arrive, for some seconds each."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[str, float] = {}  # those that are over first come first

    def add(self, source: Source) -> bool:
        """Remember the connection and its owner. True if that is news."""
        now = asyncio.get_running_loop().time()
        news = False
        for name in source:
            news |= self._until.pop(name, now) <= now
            self._until[name] = now + self._seconds
        for name in [name for name, until in islice(self._until.items(), 4) if until <= now]:
            del self._until[name]  # more are forgotten than remembered
        while len(self._until) > TROUBLES_MAX:
            del self._until[next(iter(self._until))]
        return news

    def standing(self, source: Source) -> int:
        """GOOD, OF_TROUBLED_OWNER or TROUBLED."""
        if not self._until:
            return GOOD
        now = asyncio.get_running_loop().time()
        if self._until.get(source.connection, now) > now:
            return TROUBLED
        return OF_TROUBLED_OWNER if self._until.get(source.owner, now) > now else GOOD


Waiter = asyncio.Future[int]
"""Of one who waits for a place. Its result is the standing under which the place is counted."""


class Line:
    """Those of one standing who wait. The owner whose turn is next comes first, and so in each owner."""

    def __init__(self) -> None:
        self._owners: dict[str, dict[str, dict[Waiter, None]]] = {}

    def add(self, source: Source, *waiters: Waiter) -> None:
        """Put them behind the others of their connection."""
        connections = self._owners.setdefault(source.owner, {})
        connections.setdefault(source.connection, {}).update(dict.fromkeys(waiters))

    def remove(self, source: Source, waiter: Waiter) -> None:
        """Forget one who waits no longer. Nobody loses a turn by that."""
        connections = self._owners.get(source.owner, {})
        waiters = connections.get(source.connection, {})
        waiters.pop(waiter, None)
        if not waiters and connections.pop(source.connection, None) is not None and not connections:
            del self._owners[source.owner]

    def pop(self) -> Waiter | None:
        """The next one, whose owner and connection are behind all others then."""
        while self._owners:
            owner, connections = next(iter(self._owners.items()))
            connection, waiters = next(iter(connections.items()))
            waiter = next(iter(waiters))
            self.remove(Source(owner, connection), waiter)
            if waiter.done():  # cancelled just now
                continue
            if connection in connections:
                connections[connection] = connections.pop(connection)
            if owner in self._owners:
                self._owners[owner] = self._owners.pop(owner)
            return waiter
        return None

    def take_out(self, owner: str) -> dict[str, dict[Waiter, None]]:
        """All who wait of an owner, by connection, taken out of the line."""
        return self._owners.pop(owner, {})

    def __bool__(self) -> bool:
        return bool(self._owners)


class Place:
    """A place of one message. It is given up once, however often that is asked for."""

    def __init__(self, places: Places, standing: int) -> None:
        self.held = True
        self.standing = standing
        self._places = places

    def give_up(self) -> None:
        """Let others have the place."""
        if self.held:
            self.held = False
            self._places.give_back(self.standing)


class Places:
    """A number of places. Those who wait get one when it is their turn."""

    def __init__(self, number: int, trouble_seconds: float) -> None:
        self._most = (number, max(1, number - 1), max(1, number // 2))  # by standing, or a worse one
        self._held = [0, 0, 0]
        self._lines = (Line(), Line(), Line())
        self._troubles = Troubles(trouble_seconds)

    @property
    def awaited(self) -> bool:
        """True if somebody waits."""
        return any(self._lines)

    def take(self, source: Source) -> Place | None:
        """A place if there is one for this connection now."""
        standing = self._troubles.standing(source)
        if not self._has_room(standing):
            return None
        self._held[standing] += 1
        return Place(self, standing)

    async def wait(self, source: Source) -> Place:
        """Return with a place, in turn; for when `take` finds none. Raises what `refuse` is given."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._lines[self._troubles.standing(source)].add(source, waiter)
        try:
            return Place(self, await waiter)
        except asyncio.CancelledError:
            for line in self._lines:
                line.remove(source, waiter)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:  # it has just got one
                self.give_back(waiter.result())
            raise

    def give_back(self, standing: int) -> None:
        """Let the next one have a place that was counted under this standing."""
        self._held[standing] -= 1
        for of, line in enumerate(self._lines):
            while line and self._has_room(of) and (waiter := line.pop()) is not None:
                self._held[of] += 1
                waiter.set_result(of)

    def trouble(self, source: Source) -> None:
        """A call of this connection is slow to arrive: let it and its owner wait behind others for a time."""
        if not self._troubles.add(source):
            return
        for line in self._lines[:TROUBLED]:
            for connection, waiters in line.take_out(source.owner).items():
                each = Source(source.owner, connection)
                self._lines[self._troubles.standing(each)].add(each, *waiters)

    def refuse(self, error: Exception) -> None:
        """Let everyone who waits fail with this error."""
        for line in self._lines:
            while (waiter := line.pop()) is not None:
                waiter.set_exception(error)

    def _has_room(self, standing: int) -> bool:
        held = self._held
        return sum(held) < self._most[GOOD] and sum(held[standing:]) < self._most[standing]
