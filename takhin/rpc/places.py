"""A number of places, and whose turn it is to have one: hosts in turn, then the connections of each.

Hosts and connections that keep others waiting come last, and never have all the places: one is left for other
hosts, and half of them for other connections. Everything here lives on the event loop.
"""

from __future__ import annotations

import asyncio
from itertools import islice

TROUBLES_MAX = 4_096
"""Hosts and connections remembered for having kept others waiting."""
GOOD, OF_TROUBLED_HOST, TROUBLED = 0, 1, 2
"""How a connection stands. The larger the number, the later its turn."""


def host_of(peer: str) -> str:
    """The host of a connection, which gRPC names ipv4:HOST:PORT or ipv6:%5BHOST%5D:PORT."""
    return peer.rpartition(":")[0]


class Troubles:
    """The connections and hosts whose calls were slow to arrive, for some seconds each."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[str, float] = {}  # those that are over first come first

    def add(self, peer: str) -> bool:
        """Remember the connection and its host. True if that is news."""
        now = asyncio.get_running_loop().time()
        news = False
        for name in (peer, host_of(peer)):
            news |= self._until.pop(name, now) <= now
            self._until[name] = now + self._seconds
        for name in [name for name, until in islice(self._until.items(), 4) if until <= now]:
            del self._until[name]  # more are forgotten than remembered
        while len(self._until) > TROUBLES_MAX:
            del self._until[next(iter(self._until))]
        return news

    def standing(self, peer: str) -> int:
        """GOOD, OF_TROUBLED_HOST or TROUBLED."""
        if not self._until:
            return GOOD
        now = asyncio.get_running_loop().time()
        if self._until.get(peer, now) > now:
            return TROUBLED
        return OF_TROUBLED_HOST if self._until.get(host_of(peer), now) > now else GOOD


Waiter = asyncio.Future[int]
"""Of one who waits for a place. Its result is the standing under which the place is counted."""


class Line:
    """Those of one standing who wait. The host whose turn is next comes first, and so in each host."""

    def __init__(self) -> None:
        self._hosts: dict[str, dict[str, dict[Waiter, None]]] = {}

    def add(self, peer: str, *waiters: Waiter) -> None:
        """Put them behind the others of their connection."""
        connections = self._hosts.setdefault(host_of(peer), {})
        connections.setdefault(peer, {}).update(dict.fromkeys(waiters))

    def remove(self, peer: str, waiter: Waiter) -> None:
        """Forget one who waits no longer. Nobody loses a turn by that."""
        connections = self._hosts.get(host_of(peer), {})
        waiters = connections.get(peer, {})
        waiters.pop(waiter, None)
        if not waiters and connections.pop(peer, None) is not None and not connections:
            del self._hosts[host_of(peer)]

    def pop(self) -> Waiter | None:
        """The next one, whose host and connection are behind all others then."""
        while self._hosts:
            host, connections = next(iter(self._hosts.items()))
            peer, waiters = next(iter(connections.items()))
            waiter = next(iter(waiters))
            self.remove(peer, waiter)
            if waiter.done():  # cancelled just now
                continue
            if peer in connections:
                connections[peer] = connections.pop(peer)
            if host in self._hosts:
                self._hosts[host] = self._hosts.pop(host)
            return waiter
        return None

    def take_out(self, host: str) -> dict[str, dict[Waiter, None]]:
        """All who wait of a host, by connection, taken out of the line."""
        return self._hosts.pop(host, {})

    def __bool__(self) -> bool:
        return bool(self._hosts)


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

    def take(self, peer: str) -> Place | None:
        """A place if there is one for this connection now."""
        standing = self._troubles.standing(peer)
        if not self._has_room(standing):
            return None
        self._held[standing] += 1
        return Place(self, standing)

    async def wait(self, peer: str) -> Place:
        """Return with a place, in turn; for when `take` finds none. Raises what `refuse` is given."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._lines[self._troubles.standing(peer)].add(peer, waiter)
        try:
            return Place(self, await waiter)
        except asyncio.CancelledError:
            for line in self._lines:
                line.remove(peer, waiter)
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

    def trouble(self, peer: str) -> None:
        """A call of this connection is slow to arrive: let it and its host wait behind others for a while."""
        if not self._troubles.add(peer):
            return
        for line in self._lines[:TROUBLED]:
            for each, waiters in line.take_out(host_of(peer)).items():
                self._lines[self._troubles.standing(each)].add(each, *waiters)

    def refuse(self, error: Exception) -> None:
        """Let everyone who waits fail with this error."""
        for line in self._lines:
            while (waiter := line.pop()) is not None:
                waiter.set_exception(error)

    def _has_room(self, standing: int) -> bool:
        held = self._held
        return sum(held) < self._most[GOOD] and sum(held[standing:]) < self._most[standing]
