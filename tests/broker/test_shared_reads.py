"""Consumers of one log share reads, and get nothing that they must not see."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from broker.support import batch
from takhin.broker.shared_reads import SharedReads
from takhin.errors import OffsetOutOfRangeError, UnknownTopicError
from takhin.model import TopicConfig, TopicSpec
from takhin.sizes import response_bytes
from takhin.storage.contract import Engine, PartitionLog

RECORDS_MAX = 10
LIMITS = {"max_bytes": 1 << 20, "max_records": RECORDS_MAX}


def numbered(count):
    return batch(*(b"%d" % number for number in range(count)))


@pytest.fixture
async def log(engine: Engine) -> PartitionLog:
    made = (await engine.create_topic(TopicSpec("orders", 1, TopicConfig(1 << 20)))).partitions[0]
    await made.append(numbered(25))
    return made


@pytest.fixture
def reads() -> SharedReads:
    return SharedReads(bytes_max=1 << 20, records_max=RECORDS_MAX)


def offsets(records):
    return [row[0] for row in records.rows]


async def test_two_consumers_are_given_one_read(reads: SharedReads, log: PartitionLog):
    """The second consumer gets what the first has read, even if the log has grown since."""
    with reads.consumer(log), reads.consumer(log):
        first = await reads.read(log, 20, **LIMITS)
        await log.append(numbered(3))
        assert await reads.read(log, 20, **LIMITS) is first
        assert offsets(first) == [20, 21, 22, 23, 24]
        assert offsets(await reads.read(log, 25, **LIMITS)) == [25, 26, 27]


async def test_a_kept_read_that_goes_too_far_is_not_given(reads: SharedReads, log: PartitionLog):
    """A consumer that stops earlier reads for itself; what ends where it stops, or before, it is given."""
    with reads.consumer(log), reads.consumer(log):
        whole = await reads.read(log, 20, **LIMITS)
        short = await reads.read(log, 20, **LIMITS, below=22)
        assert (offsets(whole), offsets(short), short.next_offset) == ([20, 21, 22, 23, 24], [20, 21], 22)
        assert await reads.read(log, 20, **LIMITS, below=23) is short


async def test_a_lone_consumer_reads_for_itself(reads: SharedReads, log: PartitionLog):
    """A lone consumer keeps nothing for others, and its read is as long as asked for."""
    with reads.consumer(log):
        first = await reads.read(log, 3, **LIMITS)
        assert offsets(first) == list(range(3, 13))
        assert await reads.read(log, 3, **LIMITS) is not first


async def test_consumers_out_of_step_meet(reads: SharedReads, log: PartitionLog):
    """Wherever two consumers began, after one read they ask for the same offset."""
    with reads.consumer(log), reads.consumer(log):
        one = await reads.read(log, 3, **LIMITS)
        other = await reads.read(log, 7, **LIMITS)
        assert offsets(one)[-1] == offsets(other)[-1] == 9


async def test_other_limits_are_other_reads(reads: SharedReads, log: PartitionLog):
    """A consumer that asked for less does not get more."""
    with reads.consumer(log), reads.consumer(log):
        await reads.read(log, 0, **LIMITS)
        assert offsets(await reads.read(log, 0, max_bytes=1 << 20, max_records=2)) == [0, 1]
        assert offsets(await reads.read(log, 0, max_bytes=1, max_records=RECORDS_MAX)) == [0]


async def test_what_was_trimmed_is_not_served(reads: SharedReads, log: PartitionLog):
    """A cached read that begins below the start of the log is refused like any other."""
    with reads.consumer(log), reads.consumer(log):
        await reads.read(log, 0, **LIMITS)
        await log.trim(5)
        with pytest.raises(OffsetOutOfRangeError):
            await reads.read(log, 0, **LIMITS)


async def test_what_was_deleted_is_not_served(reads: SharedReads, log: PartitionLog, engine: Engine):
    """A cached read of a deleted topic is refused."""
    with reads.consumer(log), reads.consumer(log):
        await reads.read(log, 0, **LIMITS)
        await engine.delete_topic("orders")
        with pytest.raises(UnknownTopicError):
            await reads.read(log, 0, **LIMITS)


async def test_bytes_are_bounded_and_let_go(log: PartitionLog):
    """The least recently used read is dropped when all are too large; when nobody consumes, all are."""
    reads = SharedReads(bytes_max=800, records_max=RECORDS_MAX)
    with ExitStack() as consumers:
        for _ in range(2):
            consumers.enter_context(reads.consumer(log))
        first = await reads.read(log, 0, **LIMITS)
        size = response_bytes(first.rows, first.headers)
        assert size < 800 < 3 * size
        second = await reads.read(log, 10, **LIMITS)
        await reads.read(log, 20, **LIMITS)
        assert await reads.read(log, 10, **LIMITS) is second
        assert await reads.read(log, 0, **LIMITS) is not first
    with reads.consumer(log), reads.consumer(log):
        assert await reads.read(log, 10, **LIMITS) is not second
