"""Sixteen producers of every kind, and the check of what they were promised against what is there.

The producers keep a journal; `losses` compares it with records read back, and is itself tested with
results that were tampered with. This file knows the generated interface and none of the broker's code.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc

from blackbox.broker_process import Broker
from blackbox.clients import CHANNEL_OPTIONS, connected, read_all
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

TOPIC = "load"
PARTITIONS = 3
UNANSWERED_MAX = 32
"""The number of requests that a stream producer has under way."""


class Record(NamedTuple):
    """A record as it was sent, without what the broker adds. Every value is unique in a run."""

    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]

    @staticmethod
    def of(message: pb.Record) -> Record:
        key = message.key if message.HasField("key") else None
        return Record(key, message.value, tuple((h.key, h.value) for h in message.headers))

    def message(self) -> pb.Record:
        headers = [pb.RecordHeader(key=key, value=value) for key, value in self.headers]
        return pb.Record(key=self.key, value=self.value, headers=headers)


@dataclass(slots=True)
class Sent:
    """A request of one producer, with the place of its first record if it was acknowledged."""

    records: list[Record]
    acked: tuple[int, int] | None = None  # partition, offset


Log = list[Record]
"""The records of a partition, in offset order from 0."""


@dataclass(slots=True)
class Journal:
    """All requests, by producer, in the order of sending; `seed` reproduces the sizes and the choices."""

    seed: int
    sent: dict[str, list[Sent]] = field(default_factory=dict)

    @staticmethod
    def new() -> Journal:
        """A journal whose seed is BLACKBOX_SEED or else a new one, which is printed."""
        seed = int(os.environ.get("BLACKBOX_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
        print(f"BLACKBOX_SEED={seed}")
        return Journal(seed)

    def as_of_now(self) -> Journal:
        """A copy that receives no further requests or answers."""
        sent = {name: [Sent(each.records, each.acked) for each in of] for name, of in self.sent.items()}
        return Journal(self.seed, sent)

    def acked_records(self) -> int:
        return sum(len(sent.records) for of in self.sent.values() for sent in of if sent.acked)


class _Producer:
    """One of the sixteen producers: makes requests and writes them and their answers to the journal."""

    def __init__(self, journal: Journal, name: str, *, partition: int, keyed: bool, size: int) -> None:
        self._random = random.Random(f"{journal.seed} {name}")
        self._sent = journal.sent.setdefault(name, [])
        self._name = name
        self._partition = partition
        self._keyed = keyed
        self._size = size

    def request(self) -> tuple[pb.ProduceMessageRequest, Sent]:
        size = self._random.randint(1, self._size)
        # Each request has one key: a batch without a partition goes where its keys belong.
        key = b"key %d" % self._random.randrange(50) if self._keyed else None
        sent = Sent([self._record(key, n) for n in range(size)])
        self._sent.append(sent)
        request = pb.ProduceMessageRequest(topic=TOPIC, partition=self._partition)
        if size == 1:
            request.record.CopyFrom(sent.records[0].message())
        else:
            request.records.extend(record.message() for record in sent.records)
        return request, sent

    def _record(self, key: bytes | None, number: int) -> Record:
        name = f"{self._name} {len(self._sent)} {number} ".encode()
        headers = (("h", name), ("h", b"")) if self._random.random() < 0.1 else ()
        return Record(key, name + self._random.randbytes(self._random.choice((10, 100, 1_000))), headers)

    async def call(self, stub: Any) -> None:
        """Send one request after the other, each in a call of its own."""
        while True:
            request, sent = self.request()
            _note(sent, await stub.ProduceMessage(request))

    async def stream(self, stub: Any) -> None:
        """Send requests on one stream, many of them unanswered."""
        call = stub.ProduceMessageStream()
        under_way: asyncio.Queue[Sent] = asyncio.Queue(UNANSWERED_MAX)

        async def write() -> None:
            while True:
                request, sent = self.request()
                await under_way.put(sent)
                await call.write(request)

        writing = asyncio.create_task(write())
        try:
            async for response in call:
                _note(under_way.get_nowait(), response)
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await writing  # a stream can end by any of these, depending on its state at the kill


def _note(sent: Sent, response: pb.ProduceMessageResponse) -> None:
    assert response.error == "", response.error
    assert response.record_count == len(sent.records)
    sent.acked = (response.partition, response.offset)


async def produce_and_kill(broker: Broker, journal: Journal, name: str, meanwhile: Awaitable[None]) -> None:
    """Run the sixteen against a broker while `meanwhile` lasts, then SIGKILL it while they are producing.

    name: the name of this run, which keeps its values apart from those of others.
    """
    async with grpc.aio.insecure_channel(broker.address, options=CHANNEL_OPTIONS) as channel:
        works = _sixteen(TakhinServiceStub(channel), journal, name)
        running = [asyncio.create_task(_until_broken(work)) for work in works]
        await meanwhile
        assert not [task for task in running if task.done()]
        broker.kill()
        await asyncio.gather(*running)


@asynccontextmanager
async def producing(address: str, journal: Journal, name: str) -> AsyncIterator[None]:
    """Run the sixteen while the block runs; none of them may meet an error. name: as above."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        works = _sixteen(TakhinServiceStub(channel), journal, name)
        running = [asyncio.create_task(work) for work in works]
        try:
            yield
        finally:
            ended = [task for task in running if task.done()]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        for task in ended:
            task.result()
        assert not ended


def _sixteen(stub: Any, journal: Journal, name: str) -> list[Coroutine[Any, Any, None]]:
    """The tasks of the sixteen."""
    works = []
    for number in range(4):
        fixed = number % PARTITIONS
        kinds = {
            "unary": _Producer(journal, f"{name} unary {number}", partition=-1, keyed=False, size=1),
            "keyed": _Producer(journal, f"{name} keyed {number}", partition=-1, keyed=True, size=3),
            "stream": _Producer(journal, f"{name} stream {number}", partition=fixed, keyed=False, size=1),
            "batch": _Producer(journal, f"{name} batch {number}", partition=fixed, keyed=True, size=40),
        }
        works += [kinds["unary"].call(stub), kinds["keyed"].call(stub)]
        works += [kinds["stream"].stream(stub), kinds["batch"].stream(stub)]
    return works


async def _until_broken(work: Any) -> None:
    try:
        await work
    except grpc.aio.AioRpcError as error:
        # grpc.aio says "Internal error from Core" for a write into a connection that is just breaking.
        if error.code() != grpc.StatusCode.UNAVAILABLE and error.details() != "Internal error from Core":
            raise


def read_back(broker: Broker) -> dict[int, Log]:
    """The records of every partition; their offsets must be dense from 0."""
    logs = {}
    with connected(broker.address) as stub:
        for partition in range(PARTITIONS):
            messages = read_all(stub, TOPIC, partition)
            assert [message.offset for message in messages] == list(range(len(messages)))
            logs[partition] = [Record.of(message) for message in messages]
    return logs


def losses(journal: Journal, logs: dict[int, Log]) -> list[str]:
    """What contradicts the promises, a sentence each: nothing acknowledged is lost, moved or doubled,
    no value is altered, batches are whole, each producer's order is kept, and no other values are there.

    logs: the records of each partition, read back at dense offsets from 0.
    """
    return [
        *_acked_in_place(journal, logs),
        *_all_known_once(journal, logs),
        *_whole_and_in_order(journal, logs),
    ]


def _acked_in_place(journal: Journal, logs: dict[int, Log]) -> Iterator[str]:
    for name, requests in journal.sent.items():
        for sent in requests:
            if sent.acked is not None:
                partition, offset = sent.acked
                found = logs[partition][offset : offset + len(sent.records)]
                if found != sent.records:
                    yield f"{name}: acknowledged at {partition}/{offset}, found there: {_names(found)}"


def _all_known_once(journal: Journal, logs: dict[int, Log]) -> Iterator[str]:
    known = {record for of in journal.sent.values() for sent in of for record in sent.records}
    times = Counter(record for log in logs.values() for record in log)
    for record, count in times.items():
        if record not in known:
            yield f"nobody sent {_names([record])}"
        if count > 1:
            yield f"{count} times: {_names([record])}"


def _whole_and_in_order(journal: Journal, logs: dict[int, Log]) -> Iterator[str]:
    places = {record: (n, offset) for n, log in logs.items() for offset, record in enumerate(log)}
    for name, requests in journal.sent.items():
        last = dict.fromkeys(logs, -1)
        for sent in requests:
            found = [places[record] for record in sent.records if record in places]
            if not found:
                continue
            partition, first = found[0]
            if found != [(partition, first + n) for n in range(len(sent.records))]:
                yield f"{name}: {len(found)} of {len(sent.records)} records of a batch, at {found}"
            if first <= last[partition]:
                yield f"{name}: offset {first} after {last[partition]} in partition {partition}"
            last[partition] = first


def _names(records: Iterable[Record]) -> str:
    return repr([record.value[:40] for record in records][:3])
