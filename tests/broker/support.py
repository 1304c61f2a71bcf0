"""What the broker's tests share: a clock that stands still, batches, and a broker over any engine."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from takhin.broker.broker import Broker
from takhin.broker.session import Session
from takhin.model import Appended, Batch, Caller, Condition, ProduceRequest, Row
from takhin.settings import ConsumeSettings, Settings, TopicSettings
from takhin.sizes import size_bytes
from takhin.storage.contract import Engine

NOW = 1_700_000_000_000
HEARTBEAT_MS = 20


def batch(
    *values: bytes,
    keys: Sequence[bytes | None] | None = None,
    timestamps: Sequence[int] | None = None,
    condition: Condition | None = None,
) -> Batch:
    keys = keys or [None] * len(values)
    timestamps = timestamps or [0] * len(values)
    return Batch(keys, values, timestamps, {}, size_bytes(keys, values, ()), condition)


def broker_over(engine: Engine) -> Broker:
    settings = Settings(
        topics=TopicSettings(partitions_max=20), consume=ConsumeSettings(heartbeat_ms=HEARTBEAT_MS)
    )
    return Broker(engine, settings, clock=lambda: NOW, version="test")


def session_of(broker: Broker) -> Session:
    return Session(broker, Caller("anonymous", "127.0.0.1:40000"))


async def create(session: Session, name: str = "t", partitions: int = 1, **configs: str) -> None:
    await session.create_topic(name, num_partitions=partitions, replication_factor=1, configs=configs)


def produce(session: Session, topic: str, partition: int, sent: Batch, **options: Any) -> Awaitable[Appended]:
    """Queue a batch at once; the returned awaitable waits for the answer."""
    return session.produce(ProduceRequest(topic, partition, sent, **options)).answer()


async def rows(engine: Engine, topic: str = "t", partition: int = 0) -> Sequence[Row]:
    log = engine.topics[topic].partitions[partition]
    return (await log.read(log.start_offset, max_bytes=1 << 20, max_records=100)).rows
