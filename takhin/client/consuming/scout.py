"""Finds out which logs have something new, for a consumer of more partitions than may have a stream each.

One call describes all partitions of a topic. Only those that have grown are then read, a bounded number at
one time: each by a stream that ends where its log ends. So ten thousand partitions need few calls.
"""

from __future__ import annotations

import asyncio
import logging

from takhin.client.calls import Calls
from takhin.client.clock import monotonic
from takhin.client.model import PartitionDescription
from takhin.errors import UnavailableError
from takhin.model import TopicPartition

TAILS_MAX = 400
"""Partitions of a consumer that has a stream for each, which stays open; with more it has a scout."""
READS_AT_ONCE_MAX = 64
WAIT_S_MIN = 0.1
WAITS_PER_LOOK = 9
"""The scout waits so many times as long as it has looked: it takes a tenth of a processor at most."""
WAIT_S_MAX = 3.0
"""A look at a broker that is away, or slow just then, takes long without taking a processor's time."""
LOOK_S_MAX = 10.0

Question = tuple[PartitionDescription, asyncio.Future[PartitionDescription | None]]
"""What somebody knows, and where he waits for something else."""

logger = logging.getLogger("takhin.client")


class Scout:
    """Tells fetchers when to read again. All methods run on the loop.

    reads: bounds the streams that are open at one time.
    """

    def __init__(self, calls: Calls) -> None:
        self.reads = asyncio.Semaphore(READS_AT_ONCE_MAX)
        self._calls = calls
        self._waiting: dict[TopicPartition, Question] = {}
        self._task: asyncio.Task[None] | None = None

    async def changed(self, at: TopicPartition, known: PartitionDescription) -> PartitionDescription | None:
        """What a partition is like once its end or incarnation is not as `known`; None if nobody can tell.

        Nobody can of a partition that is not served: who reads it is told why.

        One task at a time waits for each partition.
        """
        answer: asyncio.Future[PartitionDescription | None] = asyncio.get_running_loop().create_future()
        self._waiting[at] = known, answer
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._look())
            self._task.add_done_callback(self._ended)
        try:
            return await answer
        finally:
            if self._waiting.get(at) == (known, answer):
                del self._waiting[at]
            if not self._waiting and self._task is not None:
                self._task.cancel()

    async def _look(self) -> None:
        """Look again and again, until nobody waits."""
        wait_s = WAIT_S_MIN
        while True:
            await asyncio.sleep(wait_s)
            began = monotonic()
            for topic in {at.topic for at in self._waiting}:
                self._tell(topic, await self._described(topic))
            wait_s = min(max(WAIT_S_MIN, WAITS_PER_LOOK * (monotonic() - began)), WAIT_S_MAX)

    async def _described(self, topic: str) -> dict[int, PartitionDescription]:
        """The topic's partitions by number; none if it is unknown or the broker cannot be asked."""
        try:
            found = await self._calls.describe_topics(monotonic() + LOOK_S_MAX, [topic], sizes=False)
        except UnavailableError as error:
            logger.debug("cannot look at topic %r: %s", topic, error)
            return {}
        return {of.partition: of for description in found for of in description.partitions}

    def _tell(self, topic: str, found: dict[int, PartitionDescription]) -> None:
        for at, (known, answer) in self._waiting.items():
            if at.topic == topic and not answer.done():
                now = found.get(at.partition)
                if now is None or not now.served:
                    answer.set_result(None)
                elif not _same(known, now):
                    answer.set_result(now)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Let those who still wait look for themselves: it was cancelled from outside, or has failed."""
        self._task = None
        if not task.cancelled() and (fault := task.exception()) is not None:
            logger.error("the task that looks for new records failed", exc_info=fault)
        for _, answer in self._waiting.values():
            if not answer.done():
                answer.set_result(None)


def _same(known: PartitionDescription, found: PartitionDescription) -> bool:
    return (known.end_offset, known.incarnation_id) == (found.end_offset, found.incarnation_id)
