"""The broker's own decisions, over the memory engine: the partition of a batch, its time, what is refused."""

import asyncio
from dataclasses import replace

import pytest

from broker.support import NOW, batch, broker_over, create, produce, rows, session_of
from takhin.broker.broker import Broker
from takhin.errors import (
    InvalidArgumentError,
    InvalidBatchError,
    InvalidRecordError,
    OffsetOutOfRangeError,
    OutcomeUnknownError,
    OverloadedError,
    ShuttingDownError,
    UnknownGroupError,
    UnknownPartitionError,
    UnknownTopicError,
)
from takhin.members import JoinGroup
from takhin.model import Condition, Header, OffsetCommit, ProduceRequest, Source, TopicPartition
from takhin.partitioner import partition_for_key
from takhin.settings import ProduceSettings, Settings
from takhin.storage.contract import Capability
from takhin.storage.memory import MemoryEngine


async def test_a_zero_timestamp_becomes_the_brokers_clock(session, engine):
    """Records without a timestamp get the broker's time; the others keep theirs."""
    await create(session)
    await produce(session, "t", 0, batch(b"a", b"b", timestamps=[0, 7]))
    assert [row[1] for row in await rows(engine)] == [NOW, 7]


async def test_log_append_time_overrides_the_client(session, engine):
    """With message.timestamp.type=LogAppendTime every record has the broker's time."""
    await create(session, **{"message.timestamp.type": "LogAppendTime"})
    await produce(session, "t", 0, batch(b"a", timestamps=[7]))
    assert [row[1] for row in await rows(engine)] == [NOW]


async def test_keys_choose_their_partition_as_in_kafka(session):
    """A batch of one key goes to the partition that murmur2 gives, even with an empty key."""
    await create(session, partitions=5)
    for key in (b"user-1", b"", b"\x00\xff"):
        appended = await produce(session, "t", -1, batch(b"v", keys=[key]))
        assert appended.partition == partition_for_key(key, 5)


async def test_keyless_batches_are_spread_evenly(session):
    """Each keyless batch goes as a whole to the next partition in turn."""
    await create(session, partitions=3)
    landed = [(await produce(session, "t", -1, batch(b"a", b"b"))).partition for _ in range(9)]
    assert sorted(landed) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


async def test_keys_of_several_partitions_are_no_batch(session):
    """A batch is atomic in one partition, so keys that belong to several are refused."""
    await create(session, partitions=5)
    with pytest.raises(InvalidBatchError, match="belong to partitions"):
        produce(session, "t", -1, batch(b"a", b"b", keys=[b"user-1", b"foobar"]))


async def test_partitions_outside_the_topic_are_named(session):
    """The error for a partition outside the topic says which partitions there are."""
    await create(session, partitions=2)
    for partition in (2, -2):
        with pytest.raises(UnknownPartitionError, match=f"0 to 1, not {partition}"):
            produce(session, "t", partition, batch(b"a"))


async def test_a_commit_is_checked_whole_before_anything_is_written(session):
    """A commit with one bad offset among good ones commits nothing."""
    await create(session, partitions=2)
    await produce(session, "t", 0, batch(b"a"))
    good, bad = TopicPartition("t", 0), TopicPartition("t", 1)
    for wrong in (1, -1):
        with pytest.raises(OffsetOutOfRangeError):
            await session.commit_offsets("g", [OffsetCommit(good, 1, ""), OffsetCommit(bad, wrong, "")])
    with pytest.raises(UnknownTopicError):
        await session.commit_offsets(
            "g", [OffsetCommit(good, 1, ""), OffsetCommit(TopicPartition("nope", 0), 0, "")]
        )
    with pytest.raises(InvalidArgumentError, match="twice"):
        await session.commit_offsets("g", [OffsetCommit(good, 1, ""), OffsetCommit(good, 0, "")])
    with pytest.raises(InvalidArgumentError, match="metadata"):
        await session.commit_offsets("g", [OffsetCommit(good, 1, "x" * 4097)])
    assert await session.list_groups() == []


async def test_committed_offsets_are_those_asked_for_or_all(session):
    """A partition without a commit gives None; a request without partitions gives all commits, sorted."""
    await create(session, partitions=3)
    first, second, third = (TopicPartition("t", partition) for partition in range(3))
    await session.commit_offsets("g", [OffsetCommit(third, 0, "c"), OffsetCommit(first, 0, "a")])
    found = await session.committed_offsets("g", [second, third])
    assert [(at, at_offset and at_offset.metadata) for at, at_offset in found] == [
        (second, None),
        (third, "c"),
    ]
    assert [at for at, _ in await session.committed_offsets("g", [])] == [first, third]
    with pytest.raises(UnknownPartitionError):
        await session.committed_offsets("g", [TopicPartition("t", 3)])


async def test_groups_show_what_they_committed_and_their_lag(session):
    """A group's description has offset, end, lag and metadata by partition; deleting it removes them."""
    await create(session)
    await produce(session, "t", 0, batch(b"a", b"b", b"c"))
    await session.commit_offsets("g", [OffsetCommit(TopicPartition("t", 0), 1, "note")])
    (offset,) = (await session.describe_group("g")).offsets
    assert (offset.committed.offset, offset.end_offset, offset.committed.metadata) == (1, 3, "note")
    await session.delete_group("g")
    with pytest.raises(UnknownGroupError):
        await session.describe_group("g")
    with pytest.raises(UnknownGroupError):
        await session.delete_group("g")


async def test_a_description_has_the_first_topics_of_a_member(engine):
    """However many a member reads, and however many members there are, a description is of bounded size."""
    broker = Broker(engine, Settings(), clock=lambda: NOW, version="test")
    session = session_of(broker)
    for n in range(30):
        await create(session, f"topic-{n:02}")
    await broker.coordinator.start()
    membership = await session.join_group(JoinGroup("g", pattern="topic-.*"))
    (member,) = (await session.describe_group("g")).members
    assert list(member.topics) == [f"topic-{n:02}" for n in range(20)]
    membership.leave()
    await broker.coordinator.stop(0)


async def test_the_limit_of_partitions_is_that_of_all_topics(session):
    """topics.partitions_max also counts the partitions that exist already."""
    await create(session, "a", partitions=15)
    with pytest.raises(InvalidArgumentError, match="limit is 20"):
        await create(session, "b", partitions=6)
    await create(session, "b", partitions=5)


async def test_a_draining_broker_refuses_produce(broker, session, engine):
    """A draining broker queues no more batches."""
    await create(session)
    broker.drain()
    with pytest.raises(ShuttingDownError):
        produce(session, "t", 0, batch(b"a"))
    assert not await rows(engine)


class Plain:
    """An engine that judges no condition: the memory engine without these capabilities."""

    capabilities = frozenset({Capability.TRIM})

    def __init__(self) -> None:
        self._inner = MemoryEngine()

    def __getattr__(self, name: str):
        return getattr(self._inner, name)


@pytest.mark.parametrize(
    ("condition", "field"),
    [
        (Condition(bytes(16), 0, None), "producer_id"),
        (Condition(b"", 0, 0), "expected_offset"),
        (Condition(source=Source("g", "t", 0, 0)), "source"),
    ],
    ids=["producer_id", "expected_offset", "source"],
)
async def test_a_condition_that_the_engine_cannot_judge_is_refused(condition, field):
    """The error names the field of the condition; batches without a condition are accepted."""
    session = session_of(broker_over(Plain()))
    await create(session)
    with pytest.raises(InvalidArgumentError, match=f"does not take {field}") as refused:
        produce(session, "t", 0, batch(b"a", condition=condition))
    assert refused.value.details == {"field": field}
    assert (await produce(session, "t", 0, batch(b"a"))).offset == 0


async def test_acks_decide_when_a_request_is_answered(session, engine):
    """0 answers at once without an offset; absent, 1 and -1 when the batch is durable; others are refused."""
    await create(session)
    queued = await produce(session, "t", 0, batch(b"a", timestamps=[7]), required_acks=0)
    assert queued == (0, -1, 7, 1, False)
    for number, acks in enumerate((None, 1, -1), 1):
        assert (await produce(session, "t", 0, batch(b"a"), required_acks=acks)).offset == number
    for acks in (2, -2):
        with pytest.raises(InvalidArgumentError, match="required_acks must be -1 to 1"):
            produce(session, "t", 0, batch(b"a"), required_acks=acks)
    assert len(await rows(engine)) == 4


async def test_a_deadline_ends_the_wait_and_not_the_write(session):
    """After timeout_ms the outcome is unknown, and the batch stays queued."""
    await create(session)
    pending = session.produce(ProduceRequest("t", 0, batch(b"a"), timeout_ms=50))
    now = asyncio.get_running_loop().time()
    assert now < pending.deadline <= now + 0.05
    never = asyncio.get_running_loop().create_future()
    waiting = pending._replace(appended=asyncio.shield(never), deadline=now)
    with pytest.raises(OutcomeUnknownError, match="not durable within timeout_ms"):
        await waiting.answer()
    assert not never.done()
    with pytest.raises(InvalidArgumentError, match="timeout_ms"):
        produce(session, "t", 0, batch(b"a"), timeout_ms=-1)


async def test_a_batch_has_one_record_to_batch_records_max(engine, session):
    """An empty batch and one with too many records are refused, also where nobody counted them before."""
    await create(session)
    with pytest.raises(InvalidBatchError, match="at least one record"):
        produce(session, "t", 0, batch())
    with pytest.raises(InvalidArgumentError, match="at most 10000 records, not 10001"):
        produce(session, "t", 0, batch(*[b""] * 10_001))
    assert engine.topics["t"].partitions[0].end_offset == 0
    assert (await produce(session, "t", 0, batch(*[b""] * 10_000))).record_count == 10_000


def test_records_may_be_counted_before_they_are_converted(session):
    """The rule is the one of `produce`; no records at all are refused elsewhere."""
    with pytest.raises(InvalidArgumentError, match="at most 10000 records, not 10001"):
        session.check_counts(10_001, ())
    session.check_counts(10_000, ())
    session.check_counts(0, ())


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ([1_001], "a record has at most 1000 headers, not 1001"),
        ([1_000] * 10 + [1], "a batch has at most 10000 headers, not 10001"),
    ],
    ids=["record", "batch"],
)
def test_headers_are_counted_before_they_are_converted(session, headers, sentence):
    """Those of one record are bounded, and those of all together."""
    with pytest.raises(InvalidArgumentError, match=sentence):
        session.check_counts(len(headers), headers)
    session.check_counts(10, [1_000] * 10)


async def test_a_header_that_is_too_large(session):
    """Its key and its value count together, in bytes of UTF-8; the refusal names it."""
    most = ProduceSettings().header_bytes_max
    await create(session, **{"max.message.bytes": str(4 * most)})
    allowed, refused = (Header("\u00e9", bytes(most - 2 + more)) for more in (0, 1))
    few = [Header("h", b""), allowed]
    assert await produce(session, "t", 0, replace(batch(b"v"), headers={0: few}, size_bytes=most + 1))
    sent = replace(batch(b"1", b"2", b"3"), headers={0: few, 2: [allowed, refused]}, size_bytes=3 * most + 10)
    with pytest.raises(InvalidRecordError, match=f"header 1 of record 2 has {most + 1} bytes") as refusal:
        await produce(session, "t", 0, sent)
    assert refusal.value.details["record"] == "2"


class FullEngine(MemoryEngine):
    """An engine whose queue never has room."""

    async def room(self):
        await asyncio.Event().wait()


async def test_a_full_queue_hides_no_refusal():
    """Whatever is refused is refused at once; what is not waits for room, within timeout_ms."""
    engine = FullEngine()
    await engine.open()
    session = session_of(broker_over(engine))
    await create(session)
    with pytest.raises(UnknownTopicError):
        await session.submit(ProduceRequest("nowhere", 0, batch(b"v")))
    with pytest.raises(InvalidArgumentError, match="required_acks"):
        await session.submit(ProduceRequest("t", 0, batch(b"v"), required_acks=7))
    with pytest.raises(OverloadedError, match="no room within timeout_ms"):
        await session.submit(ProduceRequest("t", 0, batch(b"v"), timeout_ms=20))
