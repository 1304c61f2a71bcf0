"""Carries out loads against Kafka, with librdkafka through confluent-kafka. kafka_server.py starts it.

The client is tuned as librdkafka's documentation says. By default it stops fetching for a second once 100,000
messages wait to be taken, which would be all that is measured.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewTopic

from bench import kafka_server
from bench.common import Payload
from bench.loads import Amount

TUNED = {"queued.min.messages": 1_000_000, "fetch.queue.backoff.ms": 5}
BATCH_RECORDS = 1_000
COMMIT_INTERVAL_MS = 500
"""As often as our own members commit where they are compared."""
SILENCE_SECONDS_MAX = 60
PRODUCER_QUEUE = 200_000

Take = Callable[[Any], tuple[int, int]]
"""Takes some from a consumer: `batch` or `one`. Returns how many, and the bytes of their values."""


def version(_address: str) -> str:
    """A server does not tell its version to clients, so it is that of the jars."""
    client, library = confluent_kafka.__version__, confluent_kafka.libversion()[0]
    return f"{kafka_server.version()} (confluent-kafka {client}, librdkafka {library})"


@contextmanager
def topic_of(address: str, payload: Payload, requests: int, partitions: int) -> Iterator[str]:
    """A topic that has the payload `requests` times in each of its partitions; it is deleted afterwards."""
    admin = AdminClient({"bootstrap.servers": address})
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result()
    _fill(address, topic, payload, requests, partitions)
    yield topic
    admin.delete_topics([topic])[topic].result()


def _fill(address: str, topic: str, payload: Payload, requests: int, partitions: int) -> None:
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": address,
            "linger.ms": 5,
            "queue.buffering.max.messages": PRODUCER_QUEUE,
        }
    )
    failed: list[Any] = []

    def told(error: Any, _message: Any) -> None:
        if error is not None:
            failed.append(error)

    for partition in range(partitions):
        for _ in range(requests):
            for key, value in zip(payload.keys, payload.values, strict=True):
                producer.produce(topic, value, key, partition, told)
            while len(producer) > PRODUCER_QUEUE // 2:
                producer.poll(0.01)
            producer.poll(0)
    producer.flush()
    if failed:
        raise RuntimeError(f"{len(failed)} records were not stored: {failed[0]}")


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
