"""Carries out loads against Kafka, with librdkafka through confluent-kafka. kafka_server.py starts it.

The client is tuned as librdkafka's documentation says. By default it stops fetching for a second once 100,000
messages wait to be taken, which would be all that is measured, and waits 5 ms before it sends a lone record.
As a system of its own it has its defaults. A callback tells the outcome of each record.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewTopic

from bench import kafka_server
from bench.common import Figures, Payload, latencies
from bench.loads import BATCHES, READS, SENDS, SERIAL, TAIL, Amount, Load, Results
from bench.stopwatch import Stopwatch

TUNED = {"queued.min.messages": 1_000_000, "fetch.queue.backoff.ms": 5}
AT_ONCE = {"linger.ms": 0}
"""Tunes a producer of lone records."""
GATHERS = {"linger.ms": 5}
"""Tunes one of many: librdkafka's default, which was the fastest."""
BATCH_RECORDS = 1_000
COMMIT_INTERVAL_MS = 500
"""As often as our own members commit where they are compared."""
SILENCE_SECONDS_MAX = 60
PRODUCER_QUEUE = 200_000

Take = Callable[[Any], tuple[int, int]]
"""Takes some from a consumer: `batch` or `one`. Returns how many, and the bytes of their values."""


@contextmanager
def serve(folder: Path, _program: str) -> Iterator[str]:
    """Run a Kafka that syncs each batch before it acknowledges; yields its address."""
    with kafka_server.serve(folder, synced=True) as address:
        yield address


@contextmanager
def serve_unsynced(folder: Path, _program: str) -> Iterator[str]:
    """Run a Kafka that leaves it to the system when to sync."""
    with kafka_server.serve(folder, synced=False) as address:
        yield address


def version(_address: str) -> str:
    """A server does not tell its version to clients, so it is that of the jars."""
    client, library = confluent_kafka.__version__, confluent_kafka.libversion()[0]
    return f"{kafka_server.version()} (confluent-kafka {client}, librdkafka {library})"


def measure(address: str, load: Load) -> Results:
    """Run the load in a topic of its own with one partition. There are no requests of single records."""
    return _measure(address, load, TUNED, AT_ONCE)


def measure_defaults(address: str, load: Load) -> Results:
    """The same with the client's defaults, as far as they matter: for reading, and for lone records."""
    return {} if load.kind in (BATCHES, SENDS) else _measure(address, load, {}, {})


def _measure(address: str, load: Load, reading: Mapping[str, Any], lone: Mapping[str, Any]) -> Results:
    if load.kind not in (BATCHES, SENDS, READS, SERIAL, TAIL):
        return {}
    with _topic(address, 1) as topic:
        if load.kind == BATCHES:
            return _batches(address, topic, load, reading)
        if load.kind == SENDS:
            return _sends(address, topic, load)
        if load.kind == SERIAL:
            return {"call": latencies(_serial(address, topic, load, lone)[load.warm_up :])}
        if load.kind == TAIL:
            return {"arrival": latencies(_arrivals(address, topic, load, reading, lone)[load.warm_up :])}
        _fill(address, topic, load.payload(), load.requests, 1)
        results = {"one": _read(address, topic, load, reading, one)}
        if reading:
            results["together"] = _read(address, topic, load, reading, batch)
        return results


def _batches(address: str, topic: str, load: Load, reading: Mapping[str, Any]) -> Results:
    """The records of so many requests may be unanswered. The client puts them into requests of its own."""
    window = load.in_flight * load.records
    producer = _producer(address, GATHERS)
    _produce(producer, topic, replace(load, requests=load.warm_up), window)
    watch = Stopwatch()
    _produce(producer, topic, load, window)
    results = {"produce": watch.rate(load.requests * load.records, load.requests * load.payload().size_bytes)}
    if load.consume:
        every = replace(load, requests=load.warm_up + load.requests)
        results["consume"] = _read(address, topic, every, reading, batch)
    return results


def _sends(address: str, topic: str, load: Load) -> Results:
    """Records without a key, one after the other, with a callback each."""
    records = load.requests * load.records
    producer = _producer(address, GATHERS)
    _produce(producer, topic, replace(load, requests=load.warm_up), PRODUCER_QUEUE, keyed=False)
    watch = Stopwatch()
    _produce(producer, topic, load, PRODUCER_QUEUE, keyed=False)
    return {"callbacks": watch.rate(records, records * load.value_bytes)}


def _producer(address: str, settings: Mapping[str, Any]) -> Any:
    return confluent_kafka.Producer(
        {"bootstrap.servers": address, "queue.buffering.max.messages": PRODUCER_QUEUE, **settings}
    )


def _produce(producer: Any, topic: str, load: Load, window: int, *, keyed: bool = True) -> None:
    """Return when all is acknowledged. window: how many records may be unanswered."""
    payload = load.payload()
    keys = payload.keys if keyed else [None] * len(payload)
    stored = 0

    def told(error: Any, _message: Any) -> None:
        nonlocal stored
        if error is not None:
            raise confluent_kafka.KafkaException(error)
        stored += 1

    for number in range(load.requests):
        while number * load.records - stored > window - load.records:
            producer.poll(0.01)
        for key, value in zip(keys, payload.values, strict=True):
            producer.produce(topic, value, key, 0, told)
        producer.poll(0)
    producer.flush()
    if stored != load.requests * load.records:
        raise RuntimeError(f"{stored} records were stored, not {load.requests * load.records}")


def _read(address: str, topic: str, load: Load, settings: Mapping[str, Any], take: Take) -> Figures:
    """Read all of partition 0, which has the payload once for each request.

    The clock starts with the first record: before, the client takes most of a second to find the partition.
    """
    amount = Amount(load.requests * load.records, load.requests * load.records * load.value_bytes)
    with _assigned(address, topic, confluent_kafka.OFFSET_BEGINNING, settings) as consumer:
        records, value_bytes = one(consumer)
        watch = Stopwatch()
        while records < amount.records:
            taken, taken_bytes = take(consumer)
            records += taken
            value_bytes += taken_bytes
        figures = watch.rate(records - 1, load.requests * load.payload().size_bytes)
    amount.check(records, value_bytes)
    return figures


@contextmanager
def _assigned(address: str, topic: str, offset: int, settings: Mapping[str, Any]) -> Iterator[Any]:
    """A consumer of partition 0, which commits nothing."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": address, "group.id": uuid.uuid4().hex, "enable.auto.commit": False, **settings}
    )
    try:
        consumer.assign([confluent_kafka.TopicPartition(topic, 0, offset)])
        yield consumer
    finally:
        consumer.close()


def _serial(address: str, topic: str, load: Load, settings: Mapping[str, Any]) -> list[float]:
    """The seconds of each record; the next one is sent when the last is acknowledged."""
    producer, payload = _producer(address, settings), load.payload()
    seconds = []
    for _ in range(load.warm_up + load.requests):
        began = time.perf_counter()
        producer.produce(topic, payload.values[0], payload.keys[0], 0, _raise)
        producer.flush()
        seconds.append(time.perf_counter() - began)
    return seconds


def _arrivals(
    address: str, topic: str, load: Load, reading: Mapping[str, Any], lone: Mapping[str, Any]
) -> list[float]:
    """The seconds from before each record is produced until a consumer has it, on a connection of its own."""
    producer, payload = _producer(address, lone), load.payload()
    producer.produce(topic, payload.values[0], payload.keys[0], 0, _raise)  # so that both are connected
    producer.flush()
    seconds = []
    with _assigned(address, topic, confluent_kafka.OFFSET_BEGINNING, reading) as consumer:
        one(consumer)
        for _ in range(load.warm_up + load.requests):
            began = time.perf_counter()
            producer.produce(topic, payload.values[0], payload.keys[0], 0, _raise)
            _, value_bytes = one(consumer)
            seconds.append(time.perf_counter() - began)
            if value_bytes != load.value_bytes:
                raise RuntimeError("the consumer received another value")
            producer.flush()
    return seconds


def _raise(error: Any, _message: Any) -> None:
    if error is not None:
        raise confluent_kafka.KafkaException(error)


@contextmanager
def topic_of(address: str, payload: Payload, requests: int, partitions: int) -> Iterator[str]:
    """A topic that has the payload `requests` times in each of its partitions; it is deleted afterwards."""
    with _topic(address, partitions) as topic:
        _fill(address, topic, payload, requests, partitions)
        yield topic


@contextmanager
def _topic(address: str, partitions: int) -> Iterator[str]:
    admin = AdminClient({"bootstrap.servers": address})
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result()
    yield topic
    admin.delete_topics([topic])[topic].result()


def _fill(address: str, topic: str, payload: Payload, requests: int, partitions: int) -> None:
    producer = _producer(address, GATHERS)
    for partition in range(partitions):
        for _ in range(requests):
            for key, value in zip(payload.keys, payload.values, strict=True):
                producer.produce(topic, value, key, partition, _raise)
            while len(producer) > PRODUCER_QUEUE // 2:
                producer.poll(0.01)
            producer.poll(0)
    producer.flush()


def measure_group(address: str, topic: str, size: Amount, take: Take) -> float:
    """Records a second that one member of a new group reads, from the first to the last, with commits."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": address,
            "group.id": uuid.uuid4().hex,
            "group.protocol": "consumer",
            "auto.offset.reset": "earliest",
            "auto.commit.interval.ms": COMMIT_INTERVAL_MS,
            **TUNED,
        }
    )
    try:
        consumer.subscribe([topic])
        records = value_bytes = 0
        began = 0.0
        while records < size.records:
            taken, taken_bytes = take(consumer)
            records += taken
            value_bytes += taken_bytes
            began = began or time.perf_counter()
        took = time.perf_counter() - began
    finally:
        consumer.close()
    size.check(records, value_bytes)
    return records / took


def batch(consumer: Any) -> tuple[int, int]:
    """Take up to BATCH_RECORDS at once."""
    taken = consumer.consume(BATCH_RECORDS, SILENCE_SECONDS_MAX)
    if not taken:
        _silent()
    for message in taken:
        if message.error() is not None:
            raise confluent_kafka.KafkaException(message.error())
    return len(taken), sum([len(message.value()) for message in taken])


def one(consumer: Any) -> tuple[int, int]:
    """Take one."""
    message = consumer.poll(SILENCE_SECONDS_MAX)
    if message is None:
        _silent()
    if message.error() is not None:
        raise confluent_kafka.KafkaException(message.error())
    return 1, len(message.value())


def _silent() -> NoReturn:
    raise RuntimeError(f"no record has come for {SILENCE_SECONDS_MAX} s")
