"""Produce streams: requests are queued as they come, and answered in the same order.

A task of each stream reads requests and queues their records, a bounded amount ahead. The call itself waits
for each in turn and answers it. A refused request is answered like any other and ends no stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from takhin.broker.records import PendingProduce
from takhin.broker.session import Session
from takhin.errors import ShuttingDownError
from takhin.rpc.arrivals import Arrival
from takhin.rpc.calls import running
from takhin.rpc.interceptors import known
from takhin.rpc.methods import submit
from takhin.rpc.parsing import Refused
from takhin.settings import ProduceSettings
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert
from takhin.wire.status import TABLE

METHOD = "ProduceMessageStream"


@dataclass(frozen=True, slots=True)
class Unanswered:
    """What is kept of a request that was read, until it is answered.

    outcome: the queued request, or why it was refused.
    throttled_ms: for so long it was held back by a quota.
    """

    topic: str
    partition: int
    size_bytes: int
    outcome: PendingProduce | Exception
    throttled_ms: int = 0


class UnansweredQueue:
    """The requests of one stream between reading and answering, bounded in number and in bytes."""

    def __init__(self, settings: ProduceSettings) -> None:
        self._settings = settings
        self._queue: asyncio.Queue[Unanswered | None] = asyncio.Queue()
        self._requests = self._bytes = 0
        self._room = asyncio.Event()

    def put(self, unanswered: Unanswered) -> None:
        self._requests += 1
        self._bytes += unanswered.size_bytes
        self._queue.put_nowait(unanswered)

    def end(self) -> None:
        """There are no more requests: `get` returns None after the last one."""
        self._queue.put_nowait(None)

    async def get(self) -> Unanswered | None:
        """The next request in order."""
        return await self._queue.get()

    def answered(self, unanswered: Unanswered) -> None:
        """Take an answered request out of the count."""
        self._requests -= 1
        self._bytes -= unanswered.size_bytes
        self._room.set()

    async def room(self) -> None:
        """Return when another request may be read. The bounds are exceeded by one request at most."""
        while (
            self._requests >= self._settings.stream_requests_max
            or self._bytes >= self._settings.stream_bytes_max
        ):
            self._room.clear()
            await self._room.wait()


class ProduceStreams:
    """All produce streams of a service."""

    def __init__(self, settings: ProduceSettings) -> None:
        self._settings = settings
        self._readers: set[asyncio.Task[None]] = set()
        self._draining = False

    def drain(self) -> None:
        """Let streams read no further; each ends when all it has read is answered."""
        self._draining = True
        for reader in self._readers:
            reader.cancel()

    async def answers(
        self, session: Session, requests: AsyncIterator[Arrival]
    ) -> AsyncGenerator[pb.ProduceMessageResponse, None]:
        """The responses of one stream, in the order of its requests."""
        if self._draining:
            raise ShuttingDownError
        queue = UnansweredQueue(self._settings)
        reader = asyncio.create_task(_read(session, requests, queue))
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        reader.add_done_callback(lambda _: queue.end())  # also if it is cancelled before its first step
        try:
            while (unanswered := await queue.get()) is not None:
                yield await _answer(session, unanswered)
                queue.answered(unanswered)
        finally:
            reader.cancel()
            await asyncio.wait({reader})
        if reader.cancelled():  # by drain
            raise ShuttingDownError
        reader.result()


async def _read(session: Session, requests: AsyncIterator[Arrival], queue: UnansweredQueue) -> None:
    """Queue each request's records as it comes, in order; a bounded amount ahead of the answers.

    When `drain` cancels it, everything it has queued is answered: nothing is awaited between the two.
    """
    async for arrival in requests:
        queue.put(await _submitted(session, arrival))
        await queue.room()


async def _submitted(session: Session, arrival: Arrival) -> Unanswered:
    """Queue the records of a request. It keeps its place until they are in the queue, or refused."""
    message, throttled_ms = arrival.take(), arrival.throttled_ms
    try:
        if isinstance(message, Refused):
            return Unanswered(message.topic, message.partition, 0, message.error, throttled_ms)
        pending = await submit(session, message, arrival.size_bytes)
    except Exception as raised:  # noqa: BLE001  a refused request never ends the stream
        error = known(raised, METHOD)
        return Unanswered(message.topic, message.partition, 0, error, throttled_ms)
    finally:
        arrival.leave()
    return Unanswered(message.topic, message.partition, pending.size_bytes, pending, throttled_ms)


async def _answer(session: Session, unanswered: Unanswered) -> pb.ProduceMessageResponse:
    try:
        if isinstance(unanswered.outcome, Exception):
            raise unanswered.outcome  # refused at once or later: one answer for both
        appended = await unanswered.outcome.answer()
    except Exception as raised:  # noqa: BLE001  a refused request never ends the stream
        error = known(raised, METHOD)
        asked = {
            "topic": unanswered.topic,
            "partition": unanswered.partition,
            "throttled_ms": unanswered.throttled_ms,
        }
        refusal = convert.refusal(pb.ProduceMessageResponse(), asked, error, TABLE[type(error)].code)
        running().count_refusal(refusal)
        return refusal
    topic = unanswered.topic
    return convert.produced(topic, appended, session.count_partitions(topic), unanswered.throttled_ms)
