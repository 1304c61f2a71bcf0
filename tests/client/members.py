"""A member of a consumer group that reads in a task of its own, for tests to look at."""

from __future__ import annotations

import asyncio
from typing import Self
from weakref import WeakKeyDictionary

from client.support import produce
from takhin.client import Consumer

WAIT_S_MAX = 30.0


_conditions: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Condition] = WeakKeyDictionary()


def _news() -> asyncio.Condition:
    """The one of all members of a test."""
    return _conditions.setdefault(asyncio.get_running_loop(), asyncio.Condition())


class Member:
    """Reads from when it is entered until it is left, and keeps what it has read and what it was told.

    told: ("assigned" | "revoked" | "lost", the partition numbers).
    records: all that it has read. Each is processed at once, unless `busy` is cleared.
    """

    def __init__(self, server: str, group_id: str, *topics: str, **options) -> None:
        self.told: list[tuple[str, list[int]]] = []
        self.records = []
        self.go = asyncio.Event()
        self.go.set()
        callbacks = {f"on_{name}": self._teller(name) for name in ("assigned", "revoked", "lost")}
        if topics:
            options["topics"] = topics
        self.consumer = Consumer(server, group_id=group_id, **callbacks | options)

    def _teller(self, name):
        async def tell(partitions):
            self.told.append((name, [at.partition for at in partitions]))
            await self._notify()

        return tell

    async def _notify(self) -> None:
        news = _news()
        async with news:
            news.notify_all()

    async def __aenter__(self) -> Self:
        await self.consumer.open()
        self.reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.consumer.stop()
        self.go.set()
        await self.reading
        await self.consumer.close()

    async def _read(self) -> None:
        async for record in self.consumer:
            self.records.append(record)
            await self._notify()
            await self.go.wait()

    async def until(self, true) -> None:
        """Wait until `true()` is, which is looked at whenever any member has read something or was told."""
        news = _news()
        async with asyncio.timeout(WAIT_S_MAX), news:
            await news.wait_for(true)

    async def has_read(self, count: int) -> None:
        await self.until(lambda: len(self.records) >= count)

    @property
    def held(self) -> set[int]:
        """The numbers of the partitions that it holds, by what it was told."""
        held: set[int] = set()
        for name, partitions in self.told:
            held = held | set(partitions) if name == "assigned" else held - set(partitions)
        return held

    async def holds(self, count: int) -> None:
        await self.until(lambda: len(self.held) == count)

    @property
    def values(self) -> list[bytes]:
        return [record.value for record in self.records]


async def spread(server, topic, per_partition, partitions=3, first=0):
    """Put the values first, first + 1, … into each partition."""
    for partition in range(partitions):
        values = [b"%d" % number for number in range(first, first + per_partition)]
        await produce(server, topic, values, partition=partition)


async def committed(admin, group, topic):
    """The committed offsets by partition number."""
    return {
        at.partition: of.offset
        for at, of in (await admin.committed_offsets(group)).items()
        if at.topic == topic
    }


async def state(admin, group):
    return (await admin.describe_group(group)).state


async def eventually(asked, expected):
    """Wait until the broker answers so: nothing tells a test of it."""
    async with asyncio.timeout(20):
        while await asked() != expected:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
