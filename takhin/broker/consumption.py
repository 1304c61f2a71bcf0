"""The course of one consume call: catch up, then tail, within the bounds it asked for.

No read transaction outlives a step: between two reads it waits for the log to grow, holding nothing.
Positions come from `Records.next_offset`, never from counts: a log has gaps where records were removed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing

from takhin import limits
from takhin.broker.shared_reads import SharedReads
from takhin.broker.unsent import Unsent
from takhin.errors import OffsetOutOfRangeError
from takhin.model import EARLIEST, INT64_MAX, LATEST, Chunk, ConsumeRequest, Records
from takhin.packed import joined
from takhin.settings import ConsumeSettings, Settings
from takhin.sizes import MESSAGE_ROOM_BYTES
from takhin.storage.contract import PartitionLog

UNBOUNDED = INT64_MAX


async def consume(
    log: PartitionLog, request: ConsumeRequest, reads: SharedReads, unsent: Unsent, settings: Settings
) -> AsyncGenerator[Chunk, None]:
    """Yield chunks in offset order, and an empty one whenever the log has been quiet for heartbeat_ms.

    Ends at the request's bounds; without any it goes on until closed. Raises a RefusedError for a bad
    request, OffsetOutOfRangeError for an offset outside the log (also when a trim overtakes the reader),
    UnknownTopicError when the topic is deleted, PartitionUnavailableError if the log cannot be served.
    """
    _check(request, settings.consume)
    log.check_available()
    position = await _first_offset(log, request)
    stop = UNBOUNDED if request.stop_offset is None else request.stop_offset
    if request.stop_at_end:
        stop = min(stop, log.end_offset)
    left = request.max_records or UNBOUNDED
    max_bytes = min(
        request.max_bytes or settings.consume.response_bytes,
        settings.rpc.message_bytes_max - MESSAGE_ROOM_BYTES,
    )
    response_records = settings.consume.response_records_max
    response_records = min(response_records, request.response_records or response_records)
    gathered = Gathered(log, request, unsent, max_bytes)
    heartbeat_seconds = settings.consume.heartbeat_ms / 1_000
    loop = asyncio.get_running_loop()
    with reads.consumer(log), closing(gathered):
        while position < stop and left > 0:
            log.check_available()
            if position == log.end_offset:
                gathered.rest()
                if await _grown(log, position, min(gathered.due, loop.time() + heartbeat_seconds)):
                    continue
                records = gathered.take() if loop.time() >= gathered.due else Records((), {}, position)
                left -= len(records.rows)
                yield Chunk(records, log.end_offset)
                continue
            end = log.end_offset
            most = min(left, response_records) - gathered.count
            most = min(most, stop - position)
            records = await gathered.read(reads, position, max_records=most, below=stop)
            full = len(records.rows) == most or records.next_offset < end or records.next_offset >= stop
            position = records.next_offset
            for answer in gathered.answers(records, full=full):
                left -= len(answer.rows)
                yield Chunk(answer, log.end_offset)


class Gathered:
    """Records that wait for the rest of their response: up to max_wait_ms for min_bytes."""

    def __init__(self, log: PartitionLog, request: ConsumeRequest, unsent: Unsent, max_bytes: int) -> None:
        self.due = math.inf
        """When they are sent though they are too few, in the loop's time."""
        self._log = log
        self._min_bytes = request.min_bytes
        self._unsent = unsent
        self._max_bytes = max_bytes
        self._room = 0  # of `unsent`, while there is something to send
        self._wait_seconds = request.max_wait_ms / 1_000
        self._pieces: list[Records] = []
        self._bytes = 0

    @property
    def count(self) -> int:
        """How many records there are."""
        return sum(len(piece.rows) for piece in self._pieces)

    async def read(self, reads: SharedReads, position: int, *, max_records: int, below: int) -> Records:
        """What comes next in the log, below an offset, as much as there is room for."""
        if not self._pieces:
            self.close()
            self._room = self._unsent.reserve(self._max_bytes)
        if not self._min_bytes:
            return await reads.read(
                self._log, position, max_bytes=self._room, max_records=max_records, below=below
            )
        # Not a shared read: what another consumer was given may be less than there is now.
        room = self._room - self._bytes
        return await self._log.read(position, max_bytes=room, max_records=max_records, below=below)

    def answers(self, records: Records, *, full: bool) -> Iterator[Records]:
        """Add what was read; the responses that are due by it. full: what follows has no room with it."""
        if records.rows:  # none where all that was there is removed
            size = records.size_bytes if self._min_bytes else 0
            if self._pieces and self._bytes + size > self._room:
                yield self.take()
            if not self._pieces:
                self.due = asyncio.get_running_loop().time() + self._wait_seconds
            self._pieces.append(records)
            self._bytes += size
        if self._pieces and (full or self._bytes >= self._min_bytes):
            yield self.take()

    def take(self) -> Records:
        """All of them, as one response."""
        pieces, self._pieces = self._pieces, []
        self._bytes, self.due = 0, math.inf
        return joined(pieces)

    def rest(self) -> None:
        """Nothing is there to be sent: give the room back, unless records wait in it.

        Until then it is kept: gRPC may still hold one response when it takes the next.
        """
        if not self._pieces:
            self.close()

    def close(self) -> None:
        """Give the room back."""
        self._unsent.give_back(self._room)
        self._room = 0


async def _first_offset(log: PartitionLog, request: ConsumeRequest) -> int:
    if request.start_timestamp is not None:
        return (await log.offset_for_time(request.start_timestamp)).offset
    if request.offset == EARLIEST:
        return log.start_offset
    if request.offset == LATEST:
        return log.end_offset
    if not log.start_offset <= request.offset <= log.end_offset:
        raise OffsetOutOfRangeError(
            log.topic, log.partition, request.offset, log.start_offset, log.end_offset
        )
    return request.offset


async def _grown(log: PartitionLog, end: int, deadline: float) -> bool:
    """Wait until the log has grown past `end` or is closed; False if `deadline` (loop's time) comes first."""
    try:
        async with asyncio.timeout_at(deadline):
            await log.grown(end)
    except TimeoutError:
        return False
    return True


def _check(request: ConsumeRequest, settings: ConsumeSettings) -> None:
    limits.check_range("offset", request.offset, LATEST)
    limits.check_range("max_bytes", request.max_bytes, 0)
    limits.check_range("min_bytes", request.min_bytes, 0)
    limits.check_range("max_wait_ms", request.max_wait_ms, 0, settings.wait_ms_max)
    limits.check_range("max_records", request.max_records, 0)
    if request.stop_offset is not None:
        limits.check_range("stop_offset", request.stop_offset, 0)
    if request.start_timestamp is not None:
        limits.check_range("start_timestamp", request.start_timestamp, 0)
