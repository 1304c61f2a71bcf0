"""Topics, offsets, groups and health by `Admin`, as values."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from client.support import produce, read
from takhin.client import (
    Admin,
    CommittedOffset,
    GroupListing,
    GroupOffset,
    OffsetAtTime,
    PartitionOffsets,
    Producer,
    Retry,
)
from takhin.client.errors import ClosedError, UnreachableError
from takhin.errors import (
    InvalidArgumentError,
    InvalidConfigError,
    InvalidRecordError,
    OffsetOutOfRangeError,
    ReadOnlyTopicError,
    TopicExistsError,
    UnknownGroupError,
    UnknownPartitionError,
    UnknownTopicError,
)


async def test_topics(admin, name):
    """`Admin` creates, lists, describes and deletes topics; each refusal has its type."""
    await admin.create_topic(name, partitions=2, configs={"max.message.bytes": "5000"})
    assert name in await admin.list_topics()
    described = await admin.describe_topic(name)
    assert (described.name, described.configs["max.message.bytes"]) == (name, "5000")
    assert [of[:3] for of in described.partitions] == [(0, 0, 0), (1, 0, 0)]
    assert await admin.describe_topics([name, "nowhere"]) == [described]
    limits = {"cleanup.policy": "compact", "retention.bytes": "5"}
    [warning] = await admin.create_topic(f"{name}-warned", configs=limits)
    assert "retention.bytes has no effect" in warning
    with pytest.raises(TopicExistsError, match=name):
        await admin.create_topic(name)
    with pytest.raises(InvalidConfigError, match=r"no\.such"):
        await admin.create_topic("other", configs={"no.such": "1"})
    await admin.delete_topic(name)
    with pytest.raises(UnknownTopicError, match=name):
        await admin.delete_topic(name)
    with pytest.raises(UnknownTopicError, match=name):
        await admin.describe_topic(name)


async def test_altering(server, admin, name):
    """`Admin` alters a topic and describes its configs; warnings come back, refusals have their types."""
    await admin.create_topic(name, configs={"retention.ms": "5"})
    assert await admin.alter_topic(name, configs={"retention.bytes": "7"}, reset=["retention.ms"]) == []
    [warning] = await admin.alter_topic(name, partitions=3)
    assert "3 partitions instead of 1" in warning
    assert len((await admin.describe_topic(name)).partitions) == 3
    entries = {of.name: of for of in await admin.describe_configs(name)}
    assert entries["retention.bytes"][1:3] == ("7", "topic")
    assert entries["retention.ms"][1:3] == ("-1", "default")
    assert all(of.doc for of in entries.values())
    with pytest.raises(InvalidArgumentError, match="only grows"):
        await admin.alter_topic(name, partitions=2)
    with pytest.raises(InvalidConfigError, match="deletes none"):
        await admin.alter_topic(name, configs={"cleanup.policy": "", "retention.consumed": "true"})
    for nowhere in (admin.alter_topic("nowhere", partitions=2), admin.describe_configs("nowhere")):
        with pytest.raises(UnknownTopicError, match="nowhere"):
            await nowhere
    await admin.alter_topic(name, configs={"read.only": "true"})
    async with Producer(server) as producer:
        delivery = await producer.send(name, b"x")
        with pytest.raises(ReadOnlyTopicError, match="takes no records"):
            await delivery


async def test_what_partitions_say(server, admin, topic):
    """A description has the size of each partition, its record count, and the times of both ends."""
    await produce(server, topic, [b"a", b"b"], timestamp=1_000)
    await produce(server, topic, [b"c"], timestamp=900)
    [partition] = (await admin.describe_topic(topic)).partitions
    assert (partition.record_count, partition.first_timestamp, partition.last_timestamp) == (3, 1_000, 900)
    assert partition.size_bytes > 0


async def test_offsets(server, admin, topic):
    """`Admin` returns both ends of a log, and the offset for a time."""
    await produce(server, topic, [b"a", b"b"], timestamp=1_000)
    await produce(server, topic, [b"c"], timestamp=2_000)
    assert await admin.partition_offsets(topic, 0) == PartitionOffsets(0, 3)
    for time, offset in ((0, 0), (1_000, 0), (1_001, 2), (2_000, 2), (2_001, 3)):
        assert await admin.offset_for_time(topic, 0, time) == offset
    assert await admin.offset_for_time(topic, 0, datetime.fromtimestamp(1.5, UTC)) == 2


async def test_offsets_for_times(server, admin, wide):
    """One call finds the first record at or after a time in several partitions, or that there is none."""
    await produce(server, wide, [b"a", b"b"], partition=0, timestamp=1_000)
    await produce(server, wide, [b"c"], partition=0, timestamp=5_000)
    found = await admin.offsets_for_times({(wide, 0): 1_500, (wide, 1): datetime.fromtimestamp(1, UTC)})
    assert found == {(wide, 0): OffsetAtTime(2, 5_000), (wide, 1): OffsetAtTime(0, -1)}
    with pytest.raises(UnknownPartitionError):
        await admin.offsets_for_times({(wide, 0): 0, (wide, 99): 0})


async def test_compact_topic(server, admin, name):
    """`Admin` has a topic compacted and learns how many records went; a reader gets the last of each key."""
    await admin.create_topic(name, configs={"cleanup.policy": "compact"})
    for value in (b"1", b"2", b"3"):
        for key in (b"a", b"b"):
            await produce(server, name, [value], key=key)
    assert await admin.compact_topic(name) == 4
    assert [(record.offset, record.key, record.value) for record in await read(server, name)] == [
        (4, b"a", b"3"),
        (5, b"b", b"3"),
    ]
    assert await admin.compact_topic(name) == 0
    with pytest.raises(InvalidRecordError, match="has no key"):
        await produce(server, name, [b"4"])
    with pytest.raises(UnknownTopicError):
        await admin.compact_topic("nowhere")


async def test_a_topic_that_is_not_compacted(admin, topic):
    """It is refused with a sentence that names the config."""
    with pytest.raises(InvalidArgumentError, match=r"cleanup\.policy"):
        await admin.compact_topic(topic)


async def test_delete_records(server, admin, topic):
    """`Admin` removes the oldest records up to an offset, or all; what is gone already is no error."""
    await produce(server, topic, [b"%d" % n for n in range(10)])
    assert await admin.delete_records(topic, 0, before_offset=4) == 4
    assert await admin.delete_records(topic, 0, before_offset=2) == 4
    with pytest.raises(OffsetOutOfRangeError, match="11"):
        await admin.delete_records(topic, 0, before_offset=11)
    assert await admin.partition_offsets(topic, 0) == PartitionOffsets(4, 10)
    assert await admin.delete_records(topic, 0) == 10
    assert await admin.partition_offsets(topic, 0) == PartitionOffsets(10, 10)
    with pytest.raises(UnknownTopicError):
        await admin.delete_records("nowhere", 0)
    with pytest.raises(InvalidArgumentError, match="-2"):
        await admin.delete_records(topic, 0, before_offset=-2)


async def test_groups(server, admin, wide, name):
    """`Admin` commits, reads, lists, describes and deletes groups; each refusal has its type."""
    await produce(server, wide, [b"a", b"b", b"c"], partition=1)
    await admin.commit_offsets(name, {(wide, 0): 0, (wide, 1): CommittedOffset(1, "half way")})
    assert await admin.committed_offsets(name) == {(wide, 0): (0, ""), (wide, 1): (1, "half way")}
    assert await admin.committed_offsets(name, [(wide, 1), (wide, 2)]) == {(wide, 1): (1, "half way")}
    assert GroupListing(name, "Empty", 0, 2) in await admin.list_groups()
    described = await admin.describe_group(name)
    assert (described.group_id, described.state) == (name, "Empty")
    first, second = described.offsets
    assert first[:5] == (wide, 0, 0, 0, 0)
    assert second == GroupOffset(wide, 1, 1, 3, 2, "half way", second.committed_at, lag_ms=second.lag_ms)
    with pytest.raises(OffsetOutOfRangeError):
        await admin.commit_offsets(name, {(wide, 1): 4})
    await admin.delete_group(name)
    with pytest.raises(UnknownGroupError, match=name):
        await admin.delete_group(name)
    with pytest.raises(UnknownGroupError):
        await admin.describe_group(name)


async def test_health(admin):
    """A healthy broker reports that it is healthy, with its version."""
    health = await admin.health()
    assert (health.status, health.reasons) == ("healthy", [])
    assert health.version


async def test_a_call_ends_in_time_without_a_broker():
    """A call ends with UnreachableError after timeout_ms, or earlier after attempts_max attempts."""
    async with Admin("127.0.0.1:1", timeout_ms=200) as admin:
        with pytest.raises(UnreachableError):
            await admin.health()
    async with Admin("127.0.0.1:1", retry=Retry(attempts_max=1)) as admin:
        with pytest.raises(UnreachableError):
            await admin.list_topics()


async def test_life():
    """Calls before `open` and after `close` raise a ClosedError; a leaked `Admin` warns."""
    admin = Admin("127.0.0.1:1")
    for call in (admin.health(), admin.create_topic("t")):
        with pytest.raises(ClosedError):
            await call
    await admin.open()
    await admin.close()
    await admin.close()
    with pytest.raises(ClosedError):
        await admin.health()
    with pytest.raises(ClosedError):
        await admin.open()
    leaked = await Admin("127.0.0.1:1").open()
    with pytest.warns(ResourceWarning, match=r"Admin of 127\.0\.0\.1:1 was not closed"):
        leaked.__del__()
    await leaked.close()
