"""The broker's own decisions, over the memory engine: where a batch goes, its time, what is refused."""

import asyncio

import pytest

from takhin.broker import Broker
from takhin.errors import (
    InvalidArgumentError,
    InvalidBatchError,
    OffsetOutOfRangeError,
    ShuttingDownError,
    UnknownGroupError,
    UnknownPartitionError,
    UnknownTopicError,
)
from takhin.model import Batch, ConsumeRequest, TopicPartition
from takhin.partitioner import partition_for_key
from takhin.settings import Settings, TopicSettings
from takhin.signals import Signals
from takhin.sizes import size_bytes
from takhin.storage.memory_engine import MemoryEngine

NOW = 1_700_000_000_000


def batch(*values, keys=None, timestamps=None):
    keys = keys or [None] * len(values)
    timestamps = timestamps or [0] * len(values)
    return Batch(keys, values, timestamps, {}, size_bytes(keys, values, ()))


@pytest.fixture
async def broker():
    signals = Signals()
    engine = MemoryEngine(clock=lambda: NOW, end_moved=signals.notify)
    await engine.open()
    settings = Settings(topics=TopicSettings(partitions_max=20))
    yield Broker(engine, settings, clock=lambda: NOW, signals=signals)
    await engine.close()


async def create(broker, name="t", partitions=1, **configs):
    await broker.create_topic(name, num_partitions=partitions, replication_factor=1, configs=configs)


async def rows(broker, topic="t", partition=0):
    log = broker._log(topic, partition)
    return (await log.read(log.start_offset, max_bytes=1 << 20, max_records=100)).rows


async def test_a_zero_timestamp_becomes_the_brokers_clock(broker):
    """Records without a time of their own are stamped, the others kept."""
    await create(broker)
    await broker.produce("t", 0, batch(b"a", b"b", timestamps=[0, 7]))
    assert [row[1] for row in await rows(broker)] == [NOW, 7]


async def test_log_append_time_overrides_the_client(broker):
    """With message.timestamp.type=LogAppendTime every record has the broker's time."""
    await create(broker, **{"message.timestamp.type": "LogAppendTime"})
    await broker.produce("t", 0, batch(b"a", timestamps=[7]))
    assert [row[1] for row in await rows(broker)] == [NOW]


async def test_keys_choose_their_partition_as_in_kafka(broker):
    """A batch of one key goes where murmur2 sends that key, an empty key included."""
    await create(broker, partitions=5)
    for key in (b"user-1", b"", b"\x00\xff"):
        appended = await broker.produce("t", -1, batch(b"v", keys=[key]))
        assert appended.partition == partition_for_key(key, 5)


async def test_keyless_batches_are_spread_evenly(broker):
    """Each keyless batch goes to the next partition in turn, as a whole."""
    await create(broker, partitions=3)
    landed = [(await broker.produce("t", -1, batch(b"a", b"b"))).partition for _ in range(9)]
    assert sorted(landed) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


async def test_keys_of_several_partitions_are_no_batch(broker):
    """A batch is atomic in one partition, so keys that belong to several are refused."""
    await create(broker, partitions=5)
    with pytest.raises(InvalidBatchError, match="belong to partitions"):
        broker.produce("t", -1, batch(b"a", b"b", keys=[b"user-1", b"foobar"]))


async def test_partitions_outside_the_topic_are_named(broker):
    """The error says which partitions there are."""
    await create(broker, partitions=2)
    for partition in (2, -2):
        with pytest.raises(UnknownPartitionError, match=f"0 to 1, not {partition}"):
            broker.produce("t", partition, batch(b"a"))


async def test_a_commit_is_checked_whole_before_anything_is_written(broker):
    """One bad offset among good ones leaves no trace."""
    await create(broker, partitions=2)
    await broker.produce("t", 0, batch(b"a"))
    good, bad = TopicPartition("t", 0), TopicPartition("t", 1)
    for wrong in (1, -1):
        with pytest.raises(OffsetOutOfRangeError):
            await broker.commit_offsets("g", [(good, 1, ""), (bad, wrong, "")])
    with pytest.raises(UnknownTopicError):
        await broker.commit_offsets("g", [(good, 1, ""), (TopicPartition("nope", 0), 0, "")])
    with pytest.raises(InvalidArgumentError, match="twice"):
        await broker.commit_offsets("g", [(good, 1, ""), (good, 0, "")])
    with pytest.raises(InvalidArgumentError, match="metadata"):
        await broker.commit_offsets("g", [(good, 1, "x" * 4097)])
    assert await broker.group_ids() == []


async def test_groups_show_what_they_committed_and_their_lag(broker):
    """describe-group has offset, end, lag and metadata of each partition; deleting takes it all."""
    await create(broker)
    await broker.produce("t", 0, batch(b"a", b"b", b"c"))
    await broker.commit_offsets("g", [(TopicPartition("t", 0), 1, "note")])
    (offset,) = (await broker.describe_group("g")).offsets
    assert (offset.committed.offset, offset.end_offset, offset.committed.metadata) == (1, 3, "note")
    await broker.delete_group("g")
    with pytest.raises(UnknownGroupError):
        await broker.describe_group("g")
    with pytest.raises(UnknownGroupError):
        await broker.delete_group("g")


async def test_the_limit_of_partitions_is_that_of_all_topics(broker):
    """topics.partitions_max counts what is there already."""
    await create(broker, "a", partitions=15)
    with pytest.raises(InvalidArgumentError, match="limit is 20"):
        await create(broker, "b", partitions=6)
    await create(broker, "b", partitions=5)


async def test_a_draining_broker_refuses_produce(broker):
    """Once draining, nothing more is queued."""
    await create(broker)
    broker.drain()
    with pytest.raises(ShuttingDownError):
        broker.produce("t", 0, batch(b"a"))
    assert not await rows(broker)


async def test_waiters_are_woken_by_an_append_and_not_before():
    """A signal wakes everyone who waits for that log, and a wait without one ends in time."""
    signals = Signals()
    engine = MemoryEngine(clock=lambda: NOW, end_moved=signals.notify)
    broker = Broker(engine, Settings(), clock=lambda: NOW, signals=signals)
    await create(broker, partitions=2)
    first, second = broker._log("t", 0), broker._log("t", 1)
    waits = [asyncio.ensure_future(signals.wait(log, 30)) for log in (first, first)]
    other = asyncio.ensure_future(signals.wait(second, 0.05))
    await asyncio.sleep(0)
    await broker.produce("t", 0, batch(b"a"))
    assert await asyncio.gather(*waits) == [True, True]
    assert await other is False


async def test_min_bytes_is_met_also_beside_another_consumer(broker):
    """What another consumer was given, which is less than there is now, does not end the wait too early."""
    await create(broker)
    await broker.produce("t", 0, batch(b"a" * 100))
    impatient = broker.consume(ConsumeRequest("t", 0))
    assert len((await anext(impatient)).records.rows) == 1
    patient = broker.consume(ConsumeRequest("t", 0, min_bytes=300, max_wait_ms=60_000))
    waiting = asyncio.ensure_future(anext(patient))
    await broker.produce("t", 0, batch(b"b" * 100))
    assert len((await anext(impatient)).records.rows) == 1
    assert not waiting.done()
    await broker.produce("t", 0, batch(b"c" * 100))
    assert len((await waiting).records.rows) == 3
    await impatient.aclose()
    await patient.aclose()
