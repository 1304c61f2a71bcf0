"""Takhin's client: `Producer`, `Consumer` and `Admin` for asyncio. For blocking code: `takhin.client.sync`.

    async with Producer("127.0.0.1:9092") as producer:
        delivery = await producer.send("orders", b"one", key=b"k")
        print((await delivery).offset)

    async with Consumer("127.0.0.1:9092") as consumer:
        await consumer.assign_topics("orders", start=START)
        async for record in consumer:
            print(record.offset, record.value)

Errors: `takhin.client.errors` draws the tree. Importing this package loads no SQLite.
"""

import takhin.client.forks  # noqa: F401  before gRPC, which the others import
from takhin.access.rules import Rule
from takhin.client.admin import Admin
from takhin.client.consuming.consumer import Consumer
from takhin.client.model import (
    COMMITTED,
    END,
    START,
    Appended,
    CommittedOffset,
    GroupDescription,
    GroupListing,
    GroupMember,
    GroupOffset,
    Health,
    NewRecord,
    PartitionDescription,
    PartitionOffsets,
    Place,
    Position,
    Record,
    RecordMetadata,
    Span,
    TokenInfo,
    TopicConfigEntry,
    TopicDescription,
)
from takhin.client.producing.batches import Delivery
from takhin.client.producing.producer import Producer
from takhin.client.record_batch import RecordBatch
from takhin.client.retry import Retry
from takhin.client.tls import Tls, TlsFiles
from takhin.model import Header, OffsetAtTime, Source, TopicPartition

__all__ = [
    "COMMITTED",
    "END",
    "START",
    "Admin",
    "Appended",
    "CommittedOffset",
    "Consumer",
    "Delivery",
    "GroupDescription",
    "GroupListing",
    "GroupMember",
    "GroupOffset",
    "Header",
    "Health",
    "NewRecord",
    "OffsetAtTime",
    "PartitionDescription",
    "PartitionOffsets",
    "Place",
    "Position",
    "Producer",
    "Record",
    "RecordBatch",
    "RecordMetadata",
    "Retry",
    "Rule",
    "Source",
    "Span",
    "Tls",
    "TlsFiles",
    "TokenInfo",
    "TopicConfigEntry",
    "TopicDescription",
    "TopicPartition",
]
