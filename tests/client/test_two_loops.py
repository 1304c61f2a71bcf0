"""Clients and event loops: one client belongs to one loop, and says so on another."""

from __future__ import annotations

import asyncio
import threading

import pytest

from takhin.client import END, Admin, Consumer, Producer
from takhin.client.errors import OtherLoopError


async def test_on_another_loop_every_method_says_so(server, topic):
    """A client that is used on another loop than its own raises OtherLoopError at once; it never hangs."""
    async with (
        Admin(server) as admin,
        Producer(server) as producer,
        Consumer(server, group_id=topic) as consumer,
    ):
        await (await producer.send(topic, b"own"))
        await consumer.assign_topics(topic, start=END)
        attempts = [
            admin.health,
            lambda: producer.send(topic, b"other"),
            lambda: producer.append(topic, [b"other"], partition=0),
            producer.flush,
            consumer.__anext__,
            lambda: anext(consumer.batches()),
            lambda: consumer.poll(1),
            lambda: consumer.seek(topic, 0, 0),
            lambda: consumer.commit({(topic, 0): 0}),
        ]

        async def tried(attempt):
            async with asyncio.timeout(10):
                await attempt()

        def try_all():
            for attempt in attempts:
                with pytest.raises(OtherLoopError, match="another event loop"):
                    asyncio.run(tried(attempt))

        await asyncio.to_thread(try_all)
        await (await producer.send(topic, b"own again"))
        async with asyncio.timeout(10):
            assert (await anext(consumer)).value == b"own again"


def test_on_another_loop_of_the_same_thread(server, topic):
    """Loops that run one after the other on one thread are not mixed up, also by `send` in a row of sends."""

    async def used(producer):
        for _ in range(3):
            await producer.send(topic, b"")

    loop = asyncio.new_event_loop()
    try:
        producer = loop.run_until_complete(Producer(server).open())
        loop.run_until_complete(used(producer))
        with pytest.raises(OtherLoopError, match="another event loop"):
            asyncio.run(used(producer))
        loop.run_until_complete(used(producer))
        loop.run_until_complete(producer.close())
    finally:
        loop.close()


def test_two_loops_in_two_threads(server, topic):
    """Each thread's loop has clients of its own, at the same time."""
    counts = []

    async def main():
        async with Producer(server) as producer, Consumer(server) as consumer:
            await consumer.assign_topics(topic, start=END)
            for _ in range(500):
                await producer.send(topic, b"")
            await producer.flush()
            async with asyncio.timeout(20):
                counts.append(len([await anext(consumer) for _ in range(500)]))

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [500, 500]
