"""Records one by one through client libraries: ours beside nats-py and redis-py, each used as it works best.

One process sends one record after the other and, when all are acknowledged, reads them one after the other.
takhin: `Producer.send` with defaults, `async for record in consumer`. nats-py: `publish_async` with its
default bound of unacknowledged messages, and the ordered consumer with a callback. redis-py with hiredis: a
pipeline that is executed every 1,000 records, which is how that client batches, and XREAD of 1,000. Each
run is a process of its own; servers run all the time and are idle when it is not their turn. See systems.py
for what an acknowledgement of each means.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import sys
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any

from bench.common import Figures, arguments, begin, medians, write_json
from bench.systems import SYSTEMS, System
from takhin.client import END, START, Admin, Consumer, Producer, Span

RECORDS = 1_000_000
VALUE = bytes(range(100))
REDIS_PIPELINE = REDIS_READ = 1_000
GOALS = {"produce_records_per_s": 150_000, "consume_records_per_s": 300_000}


def main() -> None:
    parser = arguments("client", repeat="rounds", times=3)
    options = parser.parse_args()
    about = begin(options)
    records = int(RECORDS * options.scale)
    runs: dict[str, list[Figures]] = {}
    with ExitStack() as stack:
        systems = [system for system in SYSTEMS if system.key in MEASURES and _can(system)]
        addresses = {system.key: stack.enter_context(system.serve(options.folder)) for system in systems}
        for _ in range(options.repeat):
            for system in systems:
                runs.setdefault(system.key, []).append(_run(system.key, addresses[system.key], records))
                os.sync()  # so that one system's unsynced data is not written during another's turn
    figures = {key: medians(of) for key, of in runs.items()}
    _print_table(systems, figures, records)
    if options.json:
        write_json(options.json, {"machine": about, "records": records, "medians": figures, "rounds": runs})


def _can(system: System) -> bool:
    if missing := system.missing():
        print(f"no line for {system.title}: {', and '.join(missing)}", file=sys.stderr)
    return not missing


def _run(key: str, address: str, records: int) -> Figures:
    """Run one measurement in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, key, address, records).result()


def _measure(key: str, address: str, records: int) -> Figures:
    produced, consumed = asyncio.run(MEASURES[key](address, records))
    return {
        "produce_records_per_s": records / produced,
        "consume_records_per_s": records / consumed,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024 / 1e6,
    }


async def _takhin(address: str, records: int) -> tuple[float, float]:
    """The seconds that sending all records took, and reading them."""
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    async with Admin(address) as admin, Producer(address) as producer, Consumer(address) as consumer:
        await admin.create_topic(topic)
        began = time.perf_counter()
        for _ in range(records):
            await producer.send(topic, VALUE)
        await producer.flush()
        produced = time.perf_counter() - began
        began = time.perf_counter()
        await consumer.assign_topics(topic, start=Span(START, END))
        read = 0
        async for record in consumer:
            read += record.value == VALUE
        consumed = time.perf_counter() - began
        await admin.delete_topic(topic)
    _check(read, records)
    return produced, consumed


async def _nats(address: str, records: int) -> tuple[float, float]:
    import nats  # noqa: PLC0415  only where it is installed
    from nats.js.api import StorageType  # noqa: PLC0415

    read = 0
    everything = asyncio.Event()

    async def received(message: Any) -> None:
        nonlocal read
        read += message.data == VALUE
        if read == records:
            everything.set()

    client = await nats.connect(f"nats://{address}", allow_reconnect=False)
    streams = client.jetstream()
    await streams.add_stream(name="bench", subjects=["bench.>"], storage=StorageType.FILE)
    began = time.perf_counter()
    last: Any = None
    for _ in range(records):
        last = await streams.publish_async("bench.one", VALUE)
    await streams.publish_async_completed()
    produced = time.perf_counter() - began
    _check((await last).seq, records)
    began = time.perf_counter()
    await streams.subscribe("bench.>", stream="bench", ordered_consumer=True, cb=received)
    await everything.wait()
    consumed = time.perf_counter() - began
    await streams.delete_stream("bench")
    await client.close()
    return produced, consumed


async def _redis(address: str, records: int) -> tuple[float, float]:
    import redis.asyncio  # noqa: PLC0415

    stream = f"bench-{uuid.uuid4().hex[:8]}"
    async with redis.asyncio.from_url(f"redis://{address}", protocol=2) as client:
        began = time.perf_counter()
        pipeline = client.pipeline(transaction=False)
        for number in range(1, records + 1):
            pipeline.xadd(stream, {b"v": VALUE})
            if number % REDIS_PIPELINE == 0 or number == records:
                await pipeline.execute()  # raises if a record was refused
        produced = time.perf_counter() - began
        read, at = 0, b"0"
        began = time.perf_counter()
        while answer := await client.xread({stream: at}, count=REDIS_READ):
            for at, fields in answer[0][1]:  # noqa: B007  the last id is where the next read begins
                read += fields[b"v"] == VALUE
        consumed = time.perf_counter() - began
        await client.delete(stream)
    _check(read, records)
    return produced, consumed


def _check(read: int, records: int) -> None:
    if read != records:
        raise RuntimeError(f"{read} records are there, not {records}")


MEASURES = {"takhin": _takhin, "redis": _redis, "nats": _nats}


def _print_table(systems: list[System], figures: dict[str, Figures], records: int) -> None:
    heading = f"{records:,} records of {len(VALUE)} B"
    print(f"\n{heading:32}{'produced/s':>12}{'consumed/s':>12}{'peak RSS':>12}")
    for system in systems:
        of = figures[system.key]
        rates = f"{of['produce_records_per_s']:12,.0f}{of['consume_records_per_s']:12,.0f}"
        print(f"{system.title:32}{rates}{of['peak_rss_mb']:9,.0f} MB   {system.durability}")
    for name, least in GOALS.items():
        own = figures["takhin"][name]
        print(f"{name} of Takhin: {own:,.0f}, at least {least:,}: {'yes' if own >= least else 'NO'}")


if __name__ == "__main__":
    main()
