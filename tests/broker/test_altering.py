"""What altering a topic decides: what is refused, what is warned of, and what holds from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from broker.support import batch, broker_over, create, produce, session_of
from takhin.broker.session import Session
from takhin.errors import (
    InvalidArgumentError,
    InvalidConfigError,
    InvalidTopicNameError,
    ReadOnlyTopicError,
    UnknownTopicError,
)
from takhin.model import ProduceRequest
from takhin.partitioner import partition_for_key
from takhin.storage.memory import MemoryEngine


def alter(
    session: Session,
    name: str = "t",
    *,
    configs: Mapping[str, str] | None = None,
    reset: Sequence[str] = (),
    partitions: int = 0,
):
    return session.alter_topic(name, configs=configs or {}, reset=reset, num_partitions=partitions)


def said(session: Session, name: str = "t") -> dict[str, tuple[str, str]]:
    """The configs of a topic that are not at their default: value and origin by name."""
    entries = session.describe_configs(name)
    return {of.name: (of.value, of.origin) for of in entries if of.origin != "default"}


async def test_configs_are_set_and_reset(session):
    """What is set is the topic's, what is reset is the default again, and the rest stays."""
    await create(session, **{"retention.ms": "5"})
    assert await alter(session, configs={"retention.bytes": "7", "read.only": "true"}) == []
    assert said(session) == {
        "retention.ms": ("5", "topic"),
        "retention.bytes": ("7", "topic"),
        "read.only": ("true", "topic"),
    }
    assert await alter(session, configs={"retention.ms": "6"}, reset=["retention.bytes", "read.only"]) == []
    assert said(session) == {"retention.ms": ("6", "topic")}
    assert (await session.describe_topic("t")).num_partitions == 1


async def test_more_partitions_are_warned_of(session):
    """A topic grows, its keys move, and the answer says so; as many as there are is no change."""
    await create(session, partitions=2)
    [warning] = await alter(session, partitions=5)
    assert "5 partitions instead of 2" in warning
    assert "another partition" in warning
    assert [of.partition for of in (await session.describe_topic("t")).partitions] == [0, 1, 2, 3, 4]
    assert await alter(session, partitions=5) == []
    assert session.count_partitions("t") == 5
    assert session.count_partitions("nope") == 0


async def test_a_limit_without_effect_is_warned_of(session):
    """A retention limit under a policy that deletes nothing is kept, and said to have no effect."""
    configs = {"cleanup.policy": "compact", "retention.bytes": "5"}
    [warning] = await session.create_topic("u", num_partitions=1, replication_factor=1, configs=configs)
    assert warning.startswith("retention.bytes has no effect while cleanup.policy is 'compact'")
    await create(session, **{"retention.ms": "5"})
    [warning] = await alter(session, configs={"cleanup.policy": "compact"})
    assert warning.startswith("retention.ms has no effect while cleanup.policy is 'compact'")


async def test_records_without_a_key_are_warned_of(session):
    """Where compaction is switched on for records that are there, the answer says which of them will go."""
    await create(session)
    assert await alter(session, configs={"cleanup.policy": "compact"}) == []
    await alter(session, reset=["cleanup.policy"])
    await produce(session, "t", 0, batch(b"v"))
    [warning] = await alter(session, configs={"cleanup.policy": "compact,delete"})
    assert "records without a key" in warning
    assert await alter(session, configs={"cleanup.policy": "compact"}) == []


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"partitions": 1}, InvalidArgumentError, "only grows: it cannot become 1"),
        ({"partitions": -1}, InvalidArgumentError, "num_partitions must be at least 0"),
        (
            {"partitions": 1_001},
            InvalidArgumentError,
            r"num_partitions must be 1 to 1000 \(topics.partitions_per_topic_max\), not 1001",
        ),
        ({"partitions": 21}, InvalidArgumentError, "19 more partitions are too many: the broker has 2"),
        ({"configs": {"retention.mss": "1"}}, InvalidConfigError, "the nearest is retention.ms"),
        ({"configs": {"retention.ms": "x"}}, InvalidConfigError, "retention.ms takes a whole number"),
        ({"reset": ["x"]}, InvalidConfigError, "unknown topic config 'x'"),
        (
            {"configs": {"read.only": "true"}, "reset": ["read.only"]},
            InvalidConfigError,
            "both set and reset",
        ),
        (
            {"configs": {"cleanup.policy": "compact", "retention.consumed": "true"}},
            InvalidConfigError,
            "deletes none",
        ),
        ({"name": "u"}, UnknownTopicError, "there is no topic 'u'"),
        ({"name": "a/b"}, InvalidTopicNameError, "invalid topic name 'a/b'"),
    ],
)
async def test_a_refused_change_changes_nothing(session, change, error, sentence):
    """A change is made whole or not at all: what is good in a refused one is not made either."""
    await create(session, partitions=2)
    good = {"configs": {"max.message.bytes": "9"}, "partitions": 3}
    whole = good | change | {"configs": good["configs"] | change.get("configs", {})}
    with pytest.raises(error, match=sentence):
        await alter(session, **whole)
    assert said(session) == {}
    assert session.count_partitions("t") == 2


async def test_concurrent_changes_do_not_undo_each_other(session):
    """Of changes at the same time each keeps what the others have set."""
    await create(session)
    names = ["retention.ms", "retention.bytes", "retention.records", "delete.retention.ms"]
    await asyncio.gather(*(alter(session, configs={name: "5"}) for name in names))
    assert said(session) == dict.fromkeys(names, ("5", "topic"))


async def test_a_read_only_topic_refuses_records_by_name(session, engine):
    """No record gets in, reading and committing go on, and a topic may take records again."""
    await create(session)
    await produce(session, "t", 0, batch(b"a"))
    await alter(session, configs={"read.only": "true"})
    with pytest.raises(ReadOnlyTopicError, match=r"topic 't' takes no records: its read\.only is true"):
        produce(session, "t", 0, batch(b"b"))
    await session.commit_offsets("g", [])
    assert engine.topics["t"].partitions[0].end_offset == 1
    await alter(session, reset=["read.only"])
    assert (await produce(session, "t", 0, batch(b"c"))).offset == 1


class FullQueue(MemoryEngine):
    """An engine whose queue has no room until it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.has_room = asyncio.Event()

    async def room(self) -> None:
        await self.has_room.wait()


async def test_a_request_that_waited_for_room_is_checked_again():
    """A change that comes while a request waits for the queue holds for that request."""
    engine = FullQueue()
    await engine.open()
    session = session_of(broker_over(engine))
    for name in ("frozen", "grown"):
        await create(session, name)
    key = next(key for key in (b"%d" % n for n in range(9)) if partition_for_key(key, 3))
    waiting = [
        asyncio.create_task(session.submit(ProduceRequest(name, -1, batch(b"v", keys=[key]))))
        for name in ("frozen", "grown")
    ]
    await asyncio.sleep(0)
    await alter(session, "frozen", configs={"read.only": "true"})
    await alter(session, "grown", partitions=3)
    engine.has_room.set()
    with pytest.raises(ReadOnlyTopicError):
        await waiting[0]
    assert (await (await waiting[1]).answer()).partition == partition_for_key(key, 3)
    await engine.close()


async def test_what_partitions_say_of_themselves(session):
    """A description has each partition's size, record count, and the times of its first and last record."""
    await create(session, partitions=2)
    await produce(session, "t", 1, batch(b"a", b"b", b"c", timestamps=[7, 9, 8]))
    empty, full = (await session.describe_topic("t")).partitions
    assert (empty.size_bytes, empty.record_count) == (0, 0)
    assert (empty.first_timestamp, empty.last_timestamp) == (-1, -1)
    assert full.size_bytes > 0
    assert (full.record_count, full.first_timestamp, full.last_timestamp) == (3, 7, 8)
    [sizeless] = [info async for info in session.describe_topics(["t"], without_sizes=True)]
    assert [of.size_bytes for of in sizeless.partitions] == [-1, -1]
    assert [of.record_count for of in sizeless.partitions] == [0, 3]
    [brief] = [info async for info in session.describe_topics(["t"], without_partitions=True)]
    assert (brief.num_partitions, brief.partitions) == (2, [])
