"""The verb that compacts a topic, and the look at topics whose configs ask for that by themselves.

One partition is compacted at a time in the whole broker, so that producers of all others have the machine.
What goes and what stays is in `takhin.storage.compaction`.
"""

from __future__ import annotations

import asyncio

import structlog

from takhin.broker.topics import check_described, find_topic
from takhin.clock import Clock
from takhin.errors import InvalidArgumentError, TakhinError
from takhin.settings import TopicSettings
from takhin.storage.contract import Capability, Engine, PartitionLog, Topic

logger = structlog.get_logger()


class CompactionVerbs:
    """Compacts topics. Life: `start` when the engine is open, `stop` before it closes."""

    def __init__(self, engine: Engine, settings: TopicSettings, clock: Clock) -> None:
        self._engine = engine
        self._look_seconds = settings.compaction_look_ms / 1_000
        self._clock = clock
        self._one = asyncio.Lock()
        self._waiting: dict[str, asyncio.Task[int]] = {}
        self._tasks: set[asyncio.Task[int]] = set()
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look at the topics again and again, from now on."""
        self._looking = asyncio.create_task(self._look())

    async def stop(self, _grace_seconds: float) -> None:
        """End what is under way: the next start goes on with it."""
        tasks = [*self._tasks, *([] if self._looking is None else [self._looking])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def compact(self, name: str) -> int:
        """Compact all partitions of a topic now; returns how many records were removed.

        Calls for one topic that wait for their turn share it. A pass goes on if its caller goes away. Raises
        InvalidArgumentError for a topic that is not to be compacted, UnknownTopicError, UnavailableError.
        """
        topic = check_described(find_topic(self._engine, name))
        if not topic.config.compacts:
            raise InvalidArgumentError(
                f"topic {name!r} is not compacted: its cleanup.policy does not say so",
                field="name",
                value=name,
            )
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
        return await asyncio.shield(task)

    async def _compact(self, topic: Topic) -> int:
        removed = 0
        async with self._one:
            self._waiting.pop(topic.topic_id, None)
            for log in topic.partitions:
                removed += await log.compact(topic.config, self._clock())
        return removed

    def _ended(self, task: asyncio.Task[int]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may wait for it any more

    async def _look(self) -> None:
        while Capability.COMPACT in self._engine.capabilities:
            await asyncio.sleep(self._look_seconds)
            for topic in list(self._engine.topics.values()):
                for log in topic.partitions if topic.config.compacts else ():
                    await self._look_at(topic, log)

    async def _look_at(self, topic: Topic, log: PartitionLog) -> None:
        try:
            if await log.compaction_due(topic.config, self._clock()):
                async with self._one:
                    await log.compact(topic.config, self._clock())
        except TakhinError as error:  # the next look tries again
            logger.debug("compaction_failed", partition=f"{log.topic}/{log.partition}", error=str(error))
        except Exception:
            logger.exception("compaction_failed", partition=f"{log.topic}/{log.partition}")
