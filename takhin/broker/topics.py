"""The verbs about topics, and how the other parts find a topic or a log by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence

from takhin import limits, topic_configs
from takhin.descriptions import PartitionInfo, TopicInfo
from takhin.errors import (
    InvalidArgumentError,
    LogReplacedError,
    UnavailableError,
    UnknownPartitionError,
    UnknownTopicError,
)
from takhin.model import TopicSpec
from takhin.settings import Settings
from takhin.storage.contract import Engine, PartitionLog, Topic
from takhin.topic_configs import ConfigEntry
from takhin.turns import in_turns, others_turn

DESCRIBED_AT_ONCE = 100
"""Partitions that are described in one turn: for each, the file system is asked for two sizes, in 5 µs."""

KEYLESS_GO = "the topic is compacted from now on: the first pass removes any records without a key"


class TopicVerbs:
    """Creates, alters, deletes and describes topics."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._listed: Mapping[str, Topic] | None = None
        self._names: Sequence[str] = ()

    async def create(
        self, name: str, *, num_partitions: int, replication_factor: int, configs: Mapping[str, str]
    ) -> list[str]:
        """Make a topic; durable on return. num_partitions: 0 and below mean 1.

        Returns warnings, a sentence each.
        """
        limits.check_changeable(name)
        limits.check_replication(replication_factor)
        num_partitions = max(num_partitions, 1)
        config = topic_configs.parse(configs, self._settings)
        self._check_partitions(num_partitions, 0)
        await self._engine.create_topic(TopicSpec(name, num_partitions, config))
        return topic_configs.without_effect(config)

    async def alter(
        self, name: str, *, configs: Mapping[str, str], reset: Collection[str], num_partitions: int
    ) -> list[str]:
        """Change a topic's configs and give it more partitions; durable on return.

        configs: what the topic says itself from now on. reset: what follows the broker's settings again.
        num_partitions: 0 leaves them as they are. Returns warnings, a sentence each.
        """
        limits.check_range("num_partitions", num_partitions, 0)
        find_topic(self._engine, limits.check_changeable(name))
        warnings: list[str] = []

        def wanted(topic: Topic) -> TopicSpec:
            present = len(topic.partitions)
            config = topic_configs.altered(topic.config, configs, reset, self._settings)
            spec = TopicSpec(name, num_partitions or present, config)
            if spec.num_partitions > present:
                self._check_partitions(spec.num_partitions, present)
                warnings.append(_keys_move(present, spec.num_partitions))
            warnings.extend(topic_configs.without_effect(config))
            if config.compacts and not topic.config.compacts and any(map(_has_records, topic.partitions)):
                warnings.append(KEYLESS_GO)
            return spec

        await self._engine.alter_topic(name, wanted)
        return warnings

    def _check_partitions(self, num_partitions: int, present: int) -> None:
        """Refuse more partitions than a topic, or all topics together, may have. present: of this topic."""
        settings = self._settings.topics
        limits.check_range(
            "num_partitions",
            num_partitions,
            1,
            settings.partitions_per_topic_max,
            setting="topics.partitions_per_topic_max",
        )
        of_all = sum(len(topic.partitions) for topic in self._engine.topics.values())
        more = num_partitions - present
        if of_all + more > settings.partitions_max:
            raise InvalidArgumentError(
                f"{more} more partitions are too many: the broker has {of_all} and its limit is "
                f"{settings.partitions_max} (topics.partitions_max)",
                field="num_partitions",
                value=num_partitions,
            )

    def configs(self, name: str) -> list[ConfigEntry]:
        """Every config of a topic, with its value in force and who says so.

        Raises PartitionUnavailableError where nobody knows them.
        """
        topic = check_described(find_topic(self._engine, name))
        return topic_configs.entries(topic.config, self._settings)

    def count_partitions(self, name: str) -> int:
        """How many partitions a topic has now; 0 if there is no such topic."""
        topic = self._engine.topics.get(name)
        return 0 if topic is None else len(topic.partitions)

    async def delete(self, name: str) -> None:
        """Remove a topic with its records and committed offsets; durable on return."""
        limits.check_changeable(name)
        await self._engine.delete_topic(name)

    def names(self) -> Sequence[str]:
        """The names of all topics, sorted. The same object until the catalogue changes."""
        topics = self._engine.topics
        if topics is not self._listed:  # each change of the catalogue puts another snapshot in its place
            self._listed, self._names = topics, sorted(topics)
        return self._names

    async def describe(
        self, name: str, *, without_partitions: bool = False, without_sizes: bool = False
    ) -> TopicInfo:
        """A topic's config, and its partitions as they are now, or why one of them is not served."""
        topic = find_topic(self._engine, name)
        shown = () if without_partitions else topic.partitions
        infos = [
            _info(log, without_size=without_sizes) async for log in in_turns(shown, at_once=DESCRIBED_AT_ONCE)
        ]
        config = topic.config if topic.described else None
        return TopicInfo(topic.name, topic.topic_id, config, len(topic.partitions), infos)

    async def describe_known(
        self, names: Iterable[str], *, without_partitions: bool, without_sizes: bool
    ) -> AsyncIterator[TopicInfo]:
        """Those of `names` that exist, each once, in the order in which they are asked for."""
        async for name in in_turns(dict.fromkeys(names)):
            if name in self._engine.topics:
                yield await self.describe(
                    name, without_partitions=without_partitions, without_sizes=without_sizes
                )
                await others_turn()

    def describe_partition(self, topic: str, partition: int) -> PartitionInfo:
        """The ends of one partition now. Raises PartitionUnavailableError where they are not certain."""
        log = find_log(self._engine, topic, partition)
        log.check_available()
        return _info(log, without_size=True)


def find_topic(engine: Engine, name: str) -> Topic:
    """The topic of that name. Raises UnknownTopicError, InvalidTopicNameError."""
    topic = engine.topics.get(name)
    if topic is None:
        limits.check_topic_name(name)  # an impossible name gets the better sentence
        raise UnknownTopicError(name)
    return topic


def check_described(topic: Topic) -> Topic:
    """`topic` as it is. Raises PartitionUnavailableError if nobody knows its config: partition 0 has it."""
    if not topic.described:
        topic.partitions[0].check_available()
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


def _info(log: PartitionLog, *, without_size: bool = False) -> PartitionInfo:
    try:
        size_bytes = -1 if without_size else log.size_bytes
    except OSError:
        size_bytes = -1  # it is said to be unknown, and all else is told
    try:
        log.check_available()
    except UnavailableError as error:
        reason = str(error)
    else:
        reason = ""
    return PartitionInfo(
        log.partition,
        log.start_offset,
        log.end_offset,
        log.incarnation_id,
        size_bytes,
        log.first_timestamp,
        log.last_timestamp,
        log.record_count,
        reason,
    )


def _has_records(log: PartitionLog) -> bool:
    return log.end_offset > log.start_offset


def _keys_move(before: int, after: int) -> str:
    return (
        f"with {after} partitions instead of {before}, most keys belong to another partition from now on, "
        "and their older records stay where they are: readers of several partitions may meet a key's records "
        "out of order"
    )
