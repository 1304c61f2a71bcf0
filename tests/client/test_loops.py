"""A process that runs one event loop after the other, as scripts and tests with asyncio.run do."""

from __future__ import annotations

import subprocess
import sys

RUNS = 30
COMPLAINTS_MAX = 4
"""gRPC itself may leave an event behind once in a while; it was two in three runs."""
SCRIPT = f"""
import asyncio
from takhin.client import START, Admin, Consumer, Producer
from takhin.testing import MemoryBroker

async def fill(address):
    async with Admin(address) as admin:
        await admin.create_topic("topic")
    async with Producer(address) as producer:
        for _ in range(2_000):
            await producer.send("topic", bytes(2_000))

async def begin(address):
    async with Consumer(address) as consumer:
        await consumer.assign_topics("topic", start=START)
        async for record in consumer:
            return record

with MemoryBroker() as broker:
    asyncio.run(fill(broker.address))
    for _ in range({RUNS}):
        asyncio.run(begin(broker.address))
"""


def test_a_consumer_given_up_in_mid_stream_leaves_nothing_to_its_loop():
    """No event of a stream that was given up reaches a closed event loop, which would be printed."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stderr.count("RuntimeError: Event loop is closed") <= COMPLAINTS_MAX, done.stderr[-2_000:]
