"""Reads baskets and writes a record for each thing in them, once, whatever is killed and when.

    takhin topics create baskets --partitions 2
    takhin topics create things --partitions 3
    python examples/python/baskets.py [HOST:PORT]        (default: TAKHIN_SERVER, else 127.0.0.1:9092)

A basket is JSON: {"customer": "ann", "things": ["tea", "jam"]}. Those of testers are left out.
docs/transform.md explains it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import defaultdict

from takhin.client import COMMITTED, Consumer, NewRecord, Producer, Record
from takhin.partitioner import partition_for_key

SERVER = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TAKHIN_SERVER", "127.0.0.1:9092")
PARTITIONS = 3
"""Of the topic things. A basket that is read again has to go where it went the first time."""
COMMIT_EVERY = 20


def things(basket: Record) -> dict[int, list[NewRecord]]:
    """What a basket is made into, by partition: a record for each thing, with its name as the key."""
    found = json.loads(basket.value or b"{}")
    by_partition = defaultdict(list)
    if found.get("customer") != "tester":
        for name in found.get("things", ()):
            value = json.dumps({"customer": found["customer"], "thing": name}).encode()
            by_partition[partition_for_key(name.encode(), PARTITIONS)].append(NewRecord(value, name.encode()))
    return by_partition


async def main() -> None:
    async with Consumer(SERVER, group_id="things") as consumer, Producer(SERVER) as producer:
        await consumer.assign_topics("baskets", start=COMMITTED)
        read = 0
        async for basket in consumer:
            for partition, records in things(basket).items():
                await producer.append("things", records, partition=partition, source=consumer.source(basket))
            read += 1
            if read % COMMIT_EVERY == 0:
                await consumer.commit()


if __name__ == "__main__":
    asyncio.run(main())
