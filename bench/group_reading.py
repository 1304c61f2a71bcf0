"""Reads the same records through a group and by `assign`, and through the groups of other systems.

Each way is one consumer that reads all of a topic's records from the first to the last, and commits every
half second (Redis: each batch, there is no other way). All of them look at every value. Redis and Kafka take
part if they are installed; there are two Kafkas, one that syncs before it acknowledges, and one with its
defaults.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench import kafka_server
from bench.common import broker, new_data_dir
from bench.loads import LARGE, Amount
from bench.takhin_client import batch_request, checked, client, flood
from takhin.client import START, Consumer
from takhin.v1 import takhin_pb2 as pb

RATE_SHARE_MIN = 0.9
PARTITIONS = 4
COMMIT_INTERVAL_MS = 500

GROUP, ASSIGN = "group, batches", "assign, batches"

Ways = Mapping[str, Callable[[], float]]
"""What is compared: each function reads all, and returns records a second."""


def read_through_groups(folder: Path, records: int, rounds: int) -> dict[str, Any]:
    """Measure and print all ways, in turns; the order is another one in each round."""
    requests = records // PARTITIONS // LARGE.records
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        ways = {
            **stack.enter_context(_takhin(folder, requests)),
            **stack.enter_context(_redis(folder)),
            **stack.enter_context(_kafka(folder, requests)),
        }
        for number in range(rounds):
            names = list(ways)
            first = number % len(names)
            for name in (*names[first:], *names[:first]):
                os.sync()  # so that one system's unsynced data is not written during another's turn
                rates.setdefault(name, []).append(ways[name]())
            print(f"round {number + 1} of {rounds} done", flush=True)
    medians = {name: median(rates[name]) for name in ways}
    for name, rate in medians.items():
        least, most = min(rates[name]), max(rates[name])
        print(f"{name:32}{rate:12,.0f} records/s   ({least:,.0f} to {most:,.0f})")
    share = medians[GROUP] / medians[ASSIGN]
    print(f"through a group {share:.2f} of the rate of assign (at least {RATE_SHARE_MIN})")
    return {"rates": rates, "share": share, "kept": share >= RATE_SHARE_MIN}


# Takhin


@contextmanager
def _takhin(folder: Path, requests: int) -> Iterator[Ways]:
    with broker(folder) as address:
        amount = asyncio.run(_fill(address, requests))

        def way(*, group: bool, batches: bool) -> Callable[[], float]:
            return lambda: asyncio.run(_consume(address, amount, group=group, batches=batches))

        yield {
            GROUP: way(group=True, batches=True),
            ASSIGN: way(group=False, batches=True),
            "group, one by one": way(group=True, batches=False),
            "assign, one by one": way(group=False, batches=False),
        }


async def _fill(address: str, requests: int) -> Amount:
    async with client(address) as stub:
        checked(await stub.CreateTopic(pb.CreateTopicRequest(name="t", num_partitions=PARTITIONS)))
        for partition in range(PARTITIONS):
            request = batch_request("t", LARGE.payload(), partition)
            await flood(stub, (request for _ in range(requests)), in_flight=LARGE.in_flight, answered=[])
    return _amount(requests)


def _amount(requests: int) -> Amount:
    records = requests * LARGE.records * PARTITIONS
    return Amount(records, records * LARGE.value_bytes)


async def _consume(address: str, amount: Amount, *, group: bool, batches: bool) -> float:
    if not group:
        async with Consumer(address) as consumer:
            await consumer.assign({("t", partition): START for partition in range(PARTITIONS)})
            return await _rate(consumer, amount, batches=batches)
    async with Consumer(
        address,
        group_id=f"reading-{time.time_ns()}",
        topics=["t"],
        commit_interval_ms=COMMIT_INTERVAL_MS,
    ) as consumer:
        return await _rate(consumer, amount, batches=batches)


async def _rate(consumer: Consumer, amount: Amount, *, batches: bool) -> float:
    """Records a second from the first to the last."""
    records = value_bytes = 0
    began = 0.0
    if batches:
        async for batch in consumer.batches():
            began = began or time.perf_counter()
            records += len(batch.records)
            value_bytes += sum([len(record.value or b"") for record in batch.records])
            if records >= amount.records:
                break
    else:
        async for record in consumer:
            began = began or time.perf_counter()
            records += 1
            value_bytes += len(record.value or b"")
            if records >= amount.records:
                break
    took = time.perf_counter() - began
    amount.check(records, value_bytes)
    return records / took


# Others


@contextmanager
def _redis(folder: Path) -> Iterator[Ways]:
    program = shutil.which("redis-server")
    if program is None or importlib.util.find_spec("redis") is None:
        print(
            "redis is left out: it is not installed (scripts/install-packages bench; pip install -e .[bench])"
        )
        yield {}
        return
    peer = importlib.import_module("bench.peer_redis")
    with new_data_dir(folder) as data_dir, peer.serve(data_dir, program) as address:
        yield {"redis, XREADGROUP and XACK": partial(peer.measure_group, address, LARGE)}


@contextmanager
def _kafka(folder: Path, requests: int) -> Iterator[Ways]:
    if missing := kafka_server.missing():
        print(f"kafka is left out: {', and '.join(missing)}")
        yield {}
        return
    peer = importlib.import_module("bench.peer_kafka")
    amount = _amount(requests)
    ways: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:
        for name, synced in {"kafka, synced": True, "kafka": False}.items():
            data_dir = stack.enter_context(new_data_dir(folder))
            address = stack.enter_context(kafka_server.serve(data_dir, synced=synced))
            topic = stack.enter_context(peer.topic_of(address, LARGE.payload(), requests, PARTITIONS))
            ways[f"{name}, consume(1000)"] = partial(peer.measure_group, address, topic, amount, peer.batch)
            ways[f"{name}, poll"] = partial(peer.measure_group, address, topic, amount, peer.one)
        print(f"kafka {peer.version(address)}")
        yield ways
