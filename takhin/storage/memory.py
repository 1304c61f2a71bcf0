"""The storage contract in plain dicts: a test double for users, and the contract's shortest reading.

Owns nothing but memory: what an engine must answer is here and in memory_log.py, how answers survive a crash
is not. Nothing outlives the engine.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from takhin.clock import Clock, system_clock
from takhin.errors import FencedMemberError, TopicExistsError, UnknownPartitionError, UnknownTopicError
from takhin.meters import EngineMeters
from takhin.model import CommittedOffset, TopicConfig, TopicPartition, TopicSpec
from takhin.settings import StorageSettings
from takhin.storage.conditions import fewer_partitions
from takhin.storage.contract import NO_FENCES, Capability, Fence, Topic
from takhin.storage.fences import raise_any
from takhin.storage.memory_log import MemoryLog, Remembers
from takhin.storage.retention import limits_of
from takhin.storage.sources import SourceIndex
from takhin.storage.waiters import Waiters

DEFAULTS = StorageSettings()
RETAIN_SECONDS = 0.1
"""How often an engine removes what retention lets go."""


@dataclass(frozen=True, slots=True)
class MemoryTopic:
    """A `Topic`."""

    name: str
    topic_id: str
    config: TopicConfig
    partitions: Sequence[MemoryLog]
    described: bool = True


class MemoryOffsets:
    """An `Offsets`: committed offsets by group, then by partition. A group without any is not there."""

    def __init__(self, sources: SourceIndex) -> None:
        self._committed: dict[str, dict[TopicPartition, CommittedOffset]] = {}
        self._sources = sources
        self._engine_topics: Mapping[str, MemoryTopic] = {}

    async def commit(
        self,
        group_id: str,
        offsets: Mapping[TopicPartition, CommittedOffset],
        fences: Mapping[TopicPartition, Fence] = NO_FENCES,
    ) -> None:
        for topic, partition in offsets:
            found = self._engine_topics.get(topic)
            if found is None:
                raise UnknownTopicError(topic)
            if not 0 <= partition < len(found.partitions):
                raise UnknownPartitionError(topic, partition, len(found.partitions))
        outcomes = {at: _refusal(fences.get(at)) for at in offsets}
        taken = {at: committed for at, committed in offsets.items() if outcomes[at] is None}
        if taken:
            self._committed.setdefault(group_id, {}).update(taken)
        raise_any(outcomes)

    def of(self, group_id: str) -> Mapping[TopicPartition, CommittedOffset]:
        return dict(self._committed.get(group_id, {}))

    def groups(self) -> Sequence[str]:
        return sorted(self._committed)

    def lowest(self, at: TopicPartition) -> int | None:
        """The lowest offset that a group has committed in a partition; None where none has."""
        return min((of[at].offset for of in self._committed.values() if at in of), default=None)

    async def forget(self, group_id: str, topics: Collection[str] | None = None) -> bool:
        with_sources = self._sources.of(group_id)
        offsets = self._committed.get(group_id, {})
        kept = {} if topics is None else {at: of for at, of in offsets.items() if at.topic not in topics}
        if kept:
            self._committed[group_id] = kept
        else:
            self._committed.pop(group_id, None)
        for at in with_sources:
            self._engine_topics[at.topic].partitions[at.partition].forget_sources(group_id, topics)
        return bool(offsets or with_sources)

    def catalogue_changed(self, topics: Mapping[str, MemoryTopic]) -> None:
        """Know these topics from now on, and nothing about others any more."""
        self._engine_topics = topics
        for group_id, offsets in list(self._committed.items()):
            for gone in [at for at in offsets if at.topic not in topics]:
                del offsets[gone]
            if not offsets:
                del self._committed[group_id]


def _refusal(fence: Fence | None) -> FencedMemberError | None:
    try:
        if fence is not None:
            fence.check()
    except FencedMemberError as error:
        return error
    return None


class MemoryEngine:
    """An `Engine` that forgets everything when it is dropped.

    producers_max: whose last batches a log remembers. sources_max: of how many sources it remembers what was
    taken.
    """

    capabilities = frozenset(Capability) - {Capability.DURABLE, Capability.PACKED}
    troubles: Sequence[str] = ()

    def __init__(
        self,
        *,
        producers_max: int = DEFAULTS.producers_max,
        sources_max: int = DEFAULTS.sources_max,
        clock: Clock = system_clock,
    ) -> None:
        self.topics: Mapping[str, MemoryTopic] = {}
        self.boot = 0
        self.meters = EngineMeters()
        self._sources = SourceIndex()
        self.offsets = MemoryOffsets(self._sources)
        self._remembers = Remembers(producers_max, sources_max, self._sources, self.meters)
        self._clock = clock
        self._changed = Waiters()
        self._retaining: asyncio.Task[None] | None = None

    def stats(self) -> Mapping[str, int]:
        logs = [log for topic in self.topics.values() for log in topic.partitions]
        return {"partitions": len(logs), "queued_bytes": 0}

    async def open(self) -> None:
        """Nothing to load."""
        self.boot += 1
        self._retaining = asyncio.create_task(self._retain_for_ever())

    async def close(self) -> None:
        if self._retaining is not None:
            self._retaining.cancel()
            await asyncio.gather(self._retaining, return_exceptions=True)
        for topic in self.topics.values():
            _close_logs(topic)

    async def room(self) -> None:
        """There is room at all times: nothing waits here."""

    async def create_topic(self, spec: TopicSpec) -> MemoryTopic:
        if spec.name in self.topics:
            raise TopicExistsError(spec.name)
        return self._put(spec, uuid.uuid4().hex, ())

    async def alter_topic(self, name: str, wanted: Callable[[Topic], TopicSpec]) -> MemoryTopic:
        former = self._existing(name)
        spec = wanted(former)
        if spec.num_partitions < len(former.partitions):
            raise fewer_partitions(spec, len(former.partitions))
        return self._put(spec, former.topic_id, former.partitions)

    async def catalogue_changed(self, known: Mapping[str, Topic]) -> None:
        while self.topics is known:
            await self._changed.wait()

    async def retain(self) -> None:
        for topic in self.topics.values():
            if (limits := limits_of(topic.config)) is not None:
                for log in topic.partitions:
                    at = TopicPartition(log.topic, log.partition)
                    await log.retain(limits, self.offsets.lowest(at))

    async def _retain_for_ever(self) -> None:
        while True:
            await self.retain()
            await asyncio.sleep(RETAIN_SECONDS)

    async def delete_topic(self, name: str) -> None:
        topic = self._existing(name)
        self._change({of: other for of, other in self.topics.items() if of != name})
        self._sources.drop(name)
        self.meters.drop(name)
        _close_logs(topic)

    def _existing(self, name: str) -> MemoryTopic:
        if name not in self.topics:
            raise UnknownTopicError(name)
        return self.topics[name]

    def _put(self, spec: TopicSpec, topic_id: str, logs: Sequence[MemoryLog]) -> MemoryTopic:
        new = (
            MemoryLog(spec.name, n, self._remembers, self._clock)
            for n in range(len(logs), spec.num_partitions)
        )
        topic = MemoryTopic(spec.name, topic_id, spec.config, (*logs, *new))
        self._change({**self.topics, spec.name: topic})
        return topic

    def _change(self, topics: Mapping[str, MemoryTopic]) -> None:
        self.topics = topics
        self._sources.catalogue_changed(topics)
        self.offsets.catalogue_changed(topics)
        self._changed.wake()


def _close_logs(topic: MemoryTopic) -> None:
    for log in topic.partitions:
        log.close()
