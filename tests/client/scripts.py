"""Programs that use clients; test_processes.py runs `python scripts.py NAME SERVER TOPIC`."""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import os
import sys
import threading
import time
from unittest import mock

from takhin import client
from takhin.client import sync
from takhin.client.errors import ForkedError
from takhin.client.producing.outbox import BUSY


def forgets_to_close(server, topic):
    producer = sync.Producer(server, delivery_timeout_ms=5_000)
    for number in range(1_000):
        producer.send(topic, b"%d" % number)


def forgets_the_producer(server, topic):
    forgets_to_close(server, topic)


def leaves_without_a_broker(server, topic):
    producer = sync.Producer(server, delivery_timeout_ms=500)
    producer.send(topic, b"stored").result(20)
    print("stored", flush=True)
    input()  # until the broker is gone
    for number in range(1_000):
        producer.send(topic, b"%d" % number)


def forgets_to_close_asyncio(server, topic):
    async def main():
        producer = await client.Producer(server).open()
        await (await producer.send(topic, b"stored"))
        for number in range(1_000):
            await producer.send(topic, b"%d" % number)

    asyncio.run(main())


def leaves_an_asyncio_producer(server, topic):
    """Blocking clients were used; the loop of an asyncio producer has stopped with a record to send."""

    async def main():
        producer = await client.Producer(server).open()
        await producer.send(topic, b"")
        return producer

    with sync.Admin(server) as admin:
        admin.health()
    loop = asyncio.new_event_loop()
    kept = loop.run_until_complete(main())
    print("the loop stops", len(BUSY), flush=True)
    atexit.register(lambda: kept)


def leaves_a_stuck_callback(server, topic):
    """A callback never returns, so that nothing can be sent any more."""
    producer = sync.Producer(server, delivery_timeout_ms=500)
    stuck = threading.Event()

    def callback(_delivery):
        stuck.set()
        threading.Event().wait()

    producer.send(topic, b"").add_done_callback(callback)
    stuck.wait()
    producer.send(topic, b"never")


def forks(server, topic):
    """Everything that a forked child tries raises ForkedError at once; the parent's clients go on."""
    producer, consumer = sync.Producer(server), sync.Consumer(server)
    delivery = producer.send(topic, b"parent")
    delivery.result(20)
    consumer.assign_topics(topic)
    pid = os.fork()
    if pid == 0:
        began = time.monotonic()
        attempts = [
            lambda: sync.Admin(server),
            lambda: sync.Producer(server),
            lambda: producer.send(topic, b"child"),
            producer.flush,
            lambda: next(consumer),
            lambda: consumer.poll(1),
            consumer.commit,
            lambda: asyncio.run(opened(server)),
        ]
        for attempt in attempts:
            try:
                attempt()
            except ForkedError as error:
                assert "spawn" in str(error)  # noqa: PT017
            else:
                print("no error", flush=True)
        producer.close()
        consumer.close()
        print("child", time.monotonic() - began < 2, flush=True)
        os._exit(0)  # as the children of multiprocessing do
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, os.waitstatus_to_exitcode(status)
    assert next(consumer).value == b"parent"
    print("parent", producer.send(topic, b"again").result(20).offset)
    producer.close()
    consumer.close()


async def opened(server):
    async with client.Admin(server) as admin:
        await admin.health()


def forks_within_a_loop(server, topic):
    """An asyncio client that a child inherits within its running loop."""

    async def main():
        async with client.Producer(server) as producer:
            await (await producer.send(topic, b"parent"))
            if (pid := os.fork()) == 0:
                try:
                    await producer.send(topic, b"child")
                except ForkedError:
                    print("child True", flush=True)
                os._exit(0)
            os.waitpid(pid, 0)  # noqa: ASYNC222  nothing else is to run
            print("parent", (await (await producer.send(topic, b"again"))).offset)

    asyncio.run(main())


def forks_within_open_clients(server, topic):
    """A child that closes inherited asyncio clients ends in order; the parent stores all."""

    async def main():
        async with client.Producer(server) as producer, client.Consumer(server) as consumer:
            await (await producer.send(topic, b""))
            await consumer.assign_topics(topic)
            await anext(consumer)
            for _ in range(3_000):
                await producer.send(topic, bytes(100))
            if (pid := os.fork()) == 0:
                await producer.close()
                await consumer.close()
                os._exit(0)  # asyncio.run would cancel the parent's calls, on the parent's connection
            _, status = os.waitpid(pid, 0)  # noqa: ASYNC222  nothing else is to run
            print("child", os.waitstatus_to_exitcode(status))
            await producer.flush()
            print("parent", (await (await producer.send(topic, b""))).offset)

    asyncio.run(main())


def forks_with_records_read_ahead(server, topic):
    """A forked child gets none of the records that its parent has read ahead; the parent gets them all."""

    async def main():
        async with client.Consumer(server) as consumer:
            await consumer.assign_topics(topic)
            assert (await anext(consumer)).offset == 0
            if (pid := os.fork()) == 0:
                try:
                    await anext(consumer)
                except ForkedError:
                    print("child async", flush=True)
                os._exit(0)
            os.waitpid(pid, 0)  # noqa: ASYNC222  nothing else is to run
            assert [(await anext(consumer)).offset for _ in range(99)] == list(range(1, 100))

    with sync.Producer(server) as producer:
        for _ in range(100):
            producer.send(topic, b"")
    with sync.Consumer(server) as consumer:
        consumer.assign_topics(topic)
        assert next(consumer).offset == 0
        if (pid := os.fork()) == 0:
            for attempt in (
                lambda: next(consumer),
                lambda: next(consumer.batches()),
                lambda: consumer.poll(1),
            ):
                try:
                    attempt()
                except ForkedError:
                    print("child", flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        assert [next(consumer).offset for _ in range(99)] == list(range(1, 100))
    asyncio.run(main())


def forks_before(server, topic):
    """A child that was forked before any client was opened has clients of its own."""
    if (pid := os.fork()) == 0:
        with sync.Producer(server) as producer:
            print("child", producer.send(topic, b"child").result(20).offset, flush=True)
        sys.exit(0)
    os.waitpid(pid, 0)
    with sync.Producer(server) as producer:
        print("parent", producer.send(topic, b"parent").result(20).offset)


def send_one(server, topic):
    with sync.Producer(server) as producer:
        print("child", producer.send(topic, b"child").result(20).offset, flush=True)


def spawns(server, topic):
    """A spawned child has clients of its own, whatever its parent has."""
    with sync.Producer(server) as producer:
        producer.send(topic, b"parent").result(20)
        child = multiprocessing.get_context("spawn").Process(target=send_one, args=(server, topic))
        child.start()
        child.join(60)
        print("parent", producer.send(topic, b"again").result(20).offset)


def freezes_time(server, topic):
    """Where a test freezes time, as freezegun does, the blocking clients go on.

    Long ago: whoever compared a frozen time with the event loop's would find every deadline passed.
    """
    now = time.monotonic() - 3_600
    with (
        mock.patch("time.monotonic", return_value=now),
        mock.patch("time.time", return_value=1.0),
        mock.patch("time.perf_counter", return_value=now),
    ):
        with sync.Producer(server, linger_ms=10) as producer:
            print(producer.send(topic, b"cold").result(20).offset)
        with sync.Consumer(server) as consumer:
            consumer.assign_topics(topic)
            print(consumer.poll(20).value, consumer.poll(0.1))
        with sync.Admin("127.0.0.1:1", timeout_ms=300) as admin:
            try:
                admin.health()
            except client.errors.UnreachableError:
                print("in time")


def reads_as_a_member(server, topic):
    """Commits the first record, reads another two, and goes on as a member for ever."""
    with sync.Consumer(server, group_id=topic, topics=[topic], auto_commit=False) as consumer:
        for record in consumer:
            if record.offset == 0:
                consumer.commit(record)
            if record.offset == 2:
                print(2, flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
