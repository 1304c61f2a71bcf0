"""The pieces of the produce and consume paths, each alone: storage on a real file, conversion, partitioner.

The shapes are those of the whole runs: records of 100 B and 1 KiB in batches of 1, 100 and 1,000.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.common import payload
from takhin.clock import system_clock
from takhin.model import Batch, Chunk, TopicConfig, TopicSpec
from takhin.partitioner import partition_for_key
from takhin.settings import StorageSettings
from takhin.sizes import size_bytes
from takhin.storage.contract import PartitionLog
from takhin.storage.sqlite.engine import SqliteEngine
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert, encode

SHAPES = pytest.mark.parametrize(
    ("records", "value_bytes"), [(1_000, 100), (500, 1_024)], ids=["1000x100B", "500x1KiB"]
)
UNBOUNDED = 1 << 30


class Log:
    """A partition log on a loop that the benchmark drives from outside."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: PartitionLog) -> None:
        self._loop = loop
        self._log = log

    def append(self, batch: Batch) -> int:
        """Append a batch; returns its record count when it is durable."""
        return self._loop.run_until_complete(self._log.append(batch)).record_count

    def read(self, records: int) -> Chunk:
        found = self._loop.run_until_complete(self._log.read(0, max_bytes=UNBOUNDED, max_records=records))
        return Chunk(found, self._log.end_offset)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """Partition 0 of a new topic, as a broker with its default settings keeps it."""
    with asyncio.Runner() as runner:
        engine = SqliteEngine(tmp_path, StorageSettings(), clock=system_clock)
        runner.run(engine.open())
        try:
            topic = runner.run(engine.create_topic(TopicSpec("pieces", 1, TopicConfig(1 << 20))))
            yield Log(runner.get_loop(), topic.partitions[0])
        finally:
            runner.run(engine.close())


def batch(records: int, value_bytes: int) -> Batch:
    of = payload(records, value_bytes)
    return Batch(of.keys, of.values, [system_clock()] * records, {}, size_bytes(of.keys, of.values, ()))


def request(records: int, value_bytes: int) -> bytes:
    """A produce request as it comes over the wire."""
    of = payload(records, value_bytes)
    return pb.ProduceMessageRequest(
        topic="pieces",
        records=[{"key": key, "value": value} for key, value in zip(of.keys, of.values, strict=True)],
    ).SerializeToString()


def timed(benchmark: Any, run: Callable[..., Any], *args: Any, rounds: int) -> Any:
    """Time a fixed number of single calls, so that the file always grows by the same amount."""
    return benchmark.pedantic(run, args=args, rounds=rounds, warmup_rounds=max(rounds // 10, 1))


@pytest.mark.parametrize("value_bytes", [100, 1_024], ids=["100B", "1KiB"])
@pytest.mark.parametrize("records", [1, 100, 1_000])
def test_append(benchmark: Any, log: Log, records: int, value_bytes: int) -> None:
    """A batch goes from the queue to durable: insert, COMMIT with its sync, answer."""
    benchmark.group = "append until durable"
    rounds = 100 if records == 1_000 else 400
    assert timed(benchmark, log.append, batch(records, value_bytes), rounds=rounds) == records


@SHAPES
def test_read(benchmark: Any, log: Log, records: int, value_bytes: int) -> None:
    """A scan is read into rows."""
    benchmark.group = "read"
    log.append(batch(records, value_bytes))
    chunk = timed(benchmark, log.read, records, rounds=300)
    assert len(chunk.records.rows) == records


def no_limits(_records: int, _headers: Sequence[int]) -> None:
    """Nothing is refused."""


def batched(message: pb.ProduceMessageRequest) -> Batch:
    """The batch of a request that is not large: its conversion waits for nothing."""
    try:
        convert.batch(message, no_limits).send(None)
    except StopIteration as ended:
        found: Batch = ended.value
        return found
    raise AssertionError("the conversion waits")


@SHAPES
def test_request_to_batch(benchmark: Any, records: int, value_bytes: int) -> None:
    """The bytes of a produce request become a batch: parsed as gRPC does it, then converted."""
    benchmark.group = "request to batch"
    wire = request(records, value_bytes)
    found = timed(benchmark, lambda: batched(pb.ProduceMessageRequest.FromString(wire)), rounds=300)
    assert len(found) == records


@SHAPES
def test_request_parsed_to_batch(benchmark: Any, records: int, value_bytes: int) -> None:
    """A parsed produce request that nobody has read yet becomes a batch: the conversion alone."""
    benchmark.group = "request to batch"
    wire = request(records, value_bytes)
    found = benchmark.pedantic(
        batched, setup=lambda: ((pb.ProduceMessageRequest.FromString(wire),), {}), rounds=300
    )
    assert len(found) == records


@SHAPES
def test_chunk_to_bytes(benchmark: Any, log: Log, records: int, value_bytes: int) -> None:
    """A chunk becomes the bytes of a response."""
    benchmark.group = "chunk to response"
    log.append(batch(records, value_bytes))
    encoded = timed(benchmark, encode.encoded, 0, log.read(records).records, rounds=300)
    assert len(encoded) > records * value_bytes


@pytest.mark.parametrize("key_bytes", [10, 36])
def test_partition_for_key(benchmark: Any, key_bytes: int) -> None:
    """The partitions of 1,000 keys are computed, of 10 bytes each or as long as a UUID's text."""
    benchmark.group = "partitioner, 1,000 keys"
    keys = [key.ljust(key_bytes, b"-") for key in payload(1_000, 1).keys]
    partitions = benchmark(lambda: [partition_for_key(key, 4) for key in keys])
    assert set(partitions) == {0, 1, 2, 3}
