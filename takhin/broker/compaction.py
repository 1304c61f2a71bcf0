"""The verb that compacts a topic, and the look at topics whose configs ask for that by themselves.

One partition is compacted at a time in the whole broker, so that producers of all others have the machine.
What goes and what stays is in `takhin.storage.compaction`.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import structlog

from takhin import limits
from takhin.broker.topics import check_described, find_topic
from takhin.clock import Clock
from takhin.errors import (
    InvalidArgumentError,
    ShuttingDownError,
    TakhinError,
    UnavailableError,
    UnknownTopicError,
)
from takhin.settings import TopicSettings
from takhin.storage.contract import Capability, Engine, PartitionLog, Topic

logger = structlog.get_logger()


AFTER_FAILURE_SECONDS = 60.0
AFTER_FAILURE_SECONDS_MAX = 3_600.0
"""How long a partition whose pass has failed is left alone; twice as long after each further failure."""


class Failure(NamedTuple):
    """The last pass over a partition has failed. until: in the loop's time, no look begins another one."""

    until: float
    seconds: float


class CompactionVerbs:
    """Compacts topics. Life: `start` when the engine is open, `drain`, `stop` before it closes."""

    def __init__(self, engine: Engine, settings: TopicSettings, clock: Clock) -> None:
        self._engine = engine
        self._look_seconds = settings.compaction_look_ms / 1_000
        self._clock = clock
        self._one = asyncio.Lock()
        self._waiting: dict[str, asyncio.Task[int]] = {}
        self._tasks: set[asyncio.Task[int]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._failures: dict[tuple[str, int], Failure] = {}  # by the topic's id and the partition
        self._draining = False

    async def start(self) -> None:
        """Look at the topics again and again, from now on."""
        self._looking = asyncio.create_task(self._look())

    def drain(self) -> None:
        """End what is under way, and refuse what comes: the next start goes on with it."""
        self._draining = True
        for task in self._all_tasks:
            task.cancel()

    async def stop(self, _grace_seconds: float) -> None:
        """Return when all has ended."""
        self.drain()
        await asyncio.gather(*self._all_tasks, return_exceptions=True)

    @property
    def _all_tasks(self) -> list[asyncio.Task[Any]]:
        return [*self._tasks, *([] if self._looking is None else [self._looking])]

    async def compact(self, name: str) -> int:
        """Compact all partitions of a topic now; returns how many records were removed.

        Calls for one topic that wait for their turn share it. A pass goes on if its caller goes away. If a
        partition cannot be compacted, the others are before its error is raised. Raises InvalidArgumentError
        for a topic that is not to be compacted, UnknownTopicError, UnavailableError.
        """
        if self._draining:
            raise ShuttingDownError
        topic = self._compacted(limits.check_changeable(name))
        if Capability.COMPACT not in self._engine.capabilities:
            raise InvalidArgumentError(
                "this broker's storage engine compacts nothing: it lacks the capability "
                f"{Capability.COMPACT.value!r}",
                field="name",
            )
        task = self._waiting.get(topic.topic_id)
        if task is None:
            task = self._waiting[topic.topic_id] = asyncio.create_task(self._compact(topic))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise ShuttingDownError from None
            raise

    def _compacted(self, name: str) -> Topic:
        topic = check_described(find_topic(self._engine, name))
        if not topic.config.compacts:
            raise InvalidArgumentError(
                f"topic {name!r} is not compacted: its cleanup.policy does not say so",
                field="name",
                value=name,
            )
        return topic

    async def _compact(self, asked: Topic) -> int:
        removed, failed = 0, None
        async with self._one:
            self._waiting.pop(asked.topic_id, None)
            topic = self._compacted(asked.name)  # as it is now
            if topic.topic_id != asked.topic_id:
                raise UnknownTopicError(asked.name)
            for log in topic.partitions:
                try:
                    removed += await self._pass(topic, log)
                except UnavailableError as error:
                    failed = failed or error
        if failed is not None:
            raise failed
        return removed

    async def _pass(self, topic: Topic, log: PartitionLog) -> int:
        """Compact one partition, if its topic still asks for that. To be called with `_one`."""
        present = self._engine.topics.get(topic.name)
        if present is None or present.topic_id != topic.topic_id or not present.config.compacts:
            return 0
        place = topic.topic_id, log.partition
        try:
            removed = await log.compact(present.config, self._clock())
        except UnavailableError:
            seconds = AFTER_FAILURE_SECONDS
            if (before := self._failures.get(place)) is not None:
                seconds = min(2 * before.seconds, AFTER_FAILURE_SECONDS_MAX)
            self._failures[place] = Failure(asyncio.get_running_loop().time() + seconds, seconds)
            raise
        self._failures.pop(place, None)
        return removed

    def _ended(self, task: asyncio.Task[int]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may wait for it any more

    async def _look(self) -> None:
        while Capability.COMPACT in self._engine.capabilities:
            await asyncio.sleep(self._look_seconds)
            topics = list(self._engine.topics.values())
            ids = {topic.topic_id for topic in topics}
            self._failures = {at: failure for at, failure in self._failures.items() if at[0] in ids}
            for topic in topics:
                for log in topic.partitions if topic.config.compacts else ():
                    await self._look_at(topic, log)

    async def _look_at(self, topic: Topic, log: PartitionLog) -> None:
        failure = self._failures.get((topic.topic_id, log.partition))
        if failure is not None and asyncio.get_running_loop().time() < failure.until:
            return
        try:
            if await log.compaction_due(topic.config, self._clock()):
                async with self._one:
                    await self._pass(topic, log)
        except TakhinError as error:  # a look after a while tries again
            logger.debug("compaction_failed", partition=f"{log.topic}/{log.partition}", error=str(error))
        except Exception:
            logger.exception("compaction_failed", partition=f"{log.topic}/{log.partition}")
