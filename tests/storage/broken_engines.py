"""Engines that break one promise each, and one that keeps every promise it makes but makes fewer.

This is no part of the test run: test_contract_suite.py runs it and checks what fails. To be quick, engines
that break a promise run only the part of the suite that covers it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from takhin.model import Appended, Batch
from takhin.storage.contract import NO_FENCES, Capability
from takhin.storage.memory import MemoryEngine
from takhin.storage.memory_log import MemoryLog
from takhin.testing.contract import EngineContract
from takhin.testing.contract.appends import Appends
from takhin.testing.contract.durability import Durability
from takhin.testing.contract.growth import Growth
from takhin.testing.contract.offsets import Offsets


class ChangedLogs(MemoryEngine):
    """A memory engine whose logs are changed when they are created."""

    def change(self, log: MemoryLog) -> None:
        raise NotImplementedError

    def _put(self, spec, topic_id, logs):
        topic = super()._put(spec, topic_id, logs)
        for log in topic.partitions[len(logs) :]:
            self.change(log)
        return topic


class Halving(ChangedLogs):
    """Stores a batch in two halves, with a turn of the event loop between them."""

    def change(self, log: MemoryLog) -> None:
        log.append = lambda batch, whole=log.append: asyncio.ensure_future(self._append(whole, batch))

    async def _append(self, whole: Callable[[Batch], asyncio.Future[Appended]], batch: Batch) -> Appended:
        middle = len(batch) // 2
        if not middle:
            return await whole(batch)
        first, second = (
            replace(
                batch,
                keys=batch.keys[part],
                values=batch.values[part],
                timestamps=batch.timestamps[part],
                headers={n - part.start: h for n, h in batch.headers.items() if n in range(len(batch))[part]},
            )
            for part in (slice(0, middle), slice(middle, len(batch)))
        )
        landed = await whole(first)
        await asyncio.sleep(0)
        await whole(replace(second, condition=None))
        return landed._replace(record_count=len(batch))


class Sleeping(ChangedLogs):
    """Never wakes those who wait for growth."""

    def change(self, log: MemoryLog) -> None:
        log._growth.wake = lambda: None


class Absentminded(MemoryEngine):
    """Accepts committed offsets and forgets them."""

    def __init__(self) -> None:
        super().__init__()
        commit = self.offsets.commit

        async def forgetting(group_id, offsets, fences=NO_FENCES):
            await commit(group_id, offsets, fences)
            await self.offsets.forget(group_id)

        self.offsets.commit = forgetting


class Boastful(MemoryEngine):
    """Claims that what it acknowledges is durable, and keeps it in memory."""

    capabilities = frozenset(Capability)


class Modest(ChangedLogs):
    """Has neither trims, sequences nor sources, and says so."""

    capabilities = frozenset({Capability.EXPECTED_OFFSET})

    def change(self, log: MemoryLog) -> None:
        log.trim = self._trim
        log.append = lambda batch, append=log.append: append(self._without_producer(batch))

    async def _trim(self, offset: int) -> None:
        raise NotImplementedError

    def _without_producer(self, batch: Batch) -> Batch:
        condition = batch.condition
        assert condition is None or not (condition.producer_id or condition.source)
        return batch


class TestHalving(Appends):
    def new_engine(self, folder):
        return Halving()


class TestSleeping(Growth):
    wait_seconds = 0.05

    def new_engine(self, folder):
        return Sleeping()


class TestAbsentminded(Offsets):
    def new_engine(self, folder):
        return Absentminded()


class TestBoastful(Durability):
    def new_engine(self, folder):
        return Boastful()


class TestModest(EngineContract):
    def new_engine(self, folder):
        return Modest()
