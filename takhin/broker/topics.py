"""The verbs about topics, and how the other parts find a topic or a log by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from takhin import limits, topic_configs
from takhin.errors import (
    InvalidArgumentError,
    LogReplacedError,
    UnavailableError,
    UnknownPartitionError,
    UnknownTopicError,
)
from takhin.model import PartitionInfo, TopicInfo, TopicSpec
from takhin.settings import Settings
from takhin.storage.contract import Engine, PartitionLog, Topic
from takhin.turns import in_turns, others_turn


class TopicVerbs:
    """Creates, deletes and describes topics."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._listed: Mapping[str, Topic] | None = None
        self._names: Sequence[str] = ()

    async def create(
        self, name: str, *, num_partitions: int, replication_factor: int, configs: Mapping[str, str]
    ) -> None:
        """Make a topic; durable on return. num_partitions: 0 and below mean 1."""
        settings = self._settings.topics
        limits.check_topic_name(name)
        limits.check_replication(replication_factor)
        num_partitions = max(num_partitions, 1)
        limits.check_range("num_partitions", num_partitions, 1, settings.partitions_per_topic_max)
        config = topic_configs.parse(configs, self._settings)
        present = sum(len(topic.partitions) for topic in self._engine.topics.values())
        if present + num_partitions > settings.partitions_max:
            raise InvalidArgumentError(
                f"{num_partitions} more partitions are too many: the broker has {present} and its limit is "
                f"{settings.partitions_max} (topics.partitions_max)",
                field="num_partitions",
                value=num_partitions,
            )
        await self._engine.create_topic(TopicSpec(name, num_partitions, config))

    async def delete(self, name: str) -> None:
        """Remove a topic with its records and committed offsets; durable on return."""
        limits.check_topic_name(name)
        await self._engine.delete_topic(name)

    def names(self) -> Sequence[str]:
        """The names of all topics, sorted. The same object until the catalogue changes."""
        topics = self._engine.topics
        if topics is not self._listed:  # each change of the catalogue puts another snapshot in its place
            self._listed, self._names = topics, sorted(topics)
        return self._names

    def describe(self, name: str) -> TopicInfo:
        """A topic's config, and the ends of its partitions now, or why one of them is not served."""
        topic = find_topic(self._engine, name)
        return TopicInfo(topic.name, topic.topic_id, topic.config, [_info(log) for log in topic.partitions])

    async def describe_known(self, names: Sequence[str]) -> AsyncIterator[TopicInfo]:
        """Those of `names` that exist, each once, in the order in which they are asked for."""
        async for name in in_turns(dict.fromkeys(names)):
            if name in self._engine.topics:
                yield self.describe(name)
                await others_turn()

    def describe_partition(self, topic: str, partition: int) -> PartitionInfo:
        """The ends of one partition now. Raises PartitionUnavailableError where they are not certain."""
        log = find_log(self._engine, topic, partition)
        log.check_available()
        return _info(log)


def find_topic(engine: Engine, name: str) -> Topic:
    """The topic of that name. Raises UnknownTopicError, InvalidTopicNameError."""
    topic = engine.topics.get(name)
    if topic is None:
        limits.check_topic_name(name)  # an impossible name gets the better sentence
        raise UnknownTopicError(name)
    return topic


def find_log(engine: Engine, topic: str, partition: int) -> PartitionLog:
    """The log of one partition. Raises UnknownPartitionError and what `find_topic` raises."""
    return log_of(find_topic(engine, topic), partition)


def log_of(topic: Topic, partition: int) -> PartitionLog:
    """The log of one of a topic's partitions. Raises UnknownPartitionError."""
    partitions = topic.partitions
    if not 0 <= partition < len(partitions):
        raise UnknownPartitionError(topic.name, partition, len(partitions))
    return partitions[partition]


def check_topic_id(topic: Topic, topic_id: str) -> Topic:
    """`topic` as it is. Raises LogReplacedError if it has another id; an empty one means any.

    Raises PartitionUnavailableError if nobody knows its id, because none of its partitions can be read.
    """
    if topic_id and topic_id != topic.topic_id:
        if not topic.topic_id:
            topic.partitions[0].check_available()
        raise LogReplacedError(
            f"topic {topic.name!r} was deleted and created again: its topic_id is {topic.topic_id} now",
            topic=topic.name,
            topic_id=topic.topic_id,
        )
    return topic


def check_incarnation(log: PartitionLog, incarnation_id: str) -> PartitionLog:
    """`log` as it is. Raises LogReplacedError if it has another incarnation id; an empty one means any.

    Raises PartitionUnavailableError if nobody knows its id, because it cannot be read.
    """
    if incarnation_id and incarnation_id != log.incarnation_id:
        if not log.incarnation_id:
            log.check_available()
        raise LogReplacedError(
            f"the log of topic {log.topic!r} partition {log.partition} is another one than before: an older "
            "copy was put back, or the topic was deleted and created again",
            topic=log.topic,
            partition=log.partition,
            incarnation_id=log.incarnation_id,
        )
    return log


def _info(log: PartitionLog) -> PartitionInfo:
    try:
        log.check_available()
    except UnavailableError as error:
        reason = str(error)
    else:
        reason = ""
    return PartitionInfo(log.partition, log.start_offset, log.end_offset, log.incarnation_id, reason)
