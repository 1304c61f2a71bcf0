"""One partition as a consumer reads it: a stream that is taken up again where it broke, and what it brought.

Knows nothing of the other partitions. Two sides meet in it: a task of its own that reads (`_run`), and
whoever takes records out (`load`, then `hand_out` or `take`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat

import grpc

from takhin.client.connection import Connection, ended
from takhin.client.errors import LogReplacedError, NoAnswerError
from takhin.client.model import Record, RecordBatch
from takhin.client.positions import Start, describe
from takhin.errors import UnavailableError, UnknownPartitionError
from takhin.model import TopicPartition
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.columns import ResponseColumns

RESPONSE_BYTES_MAX = 1 << 20

Stream = grpc.aio.UnaryStreamCall[pb.ConsumeMessagesRequest, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class TailLimits:
    """What a tail may do. buffer_bytes_max: of what is read and not taken; passed by one response."""

    buffer_bytes_max: int
    silence_s_max: float
    outage_s_max: float


class Tail:
    """Life: `start`, take records out, `stop`. After an error it may be started again.

    end_offset: of the log, as the broker last told it.
    stop_offset: exclusive; None for no end.
    error: what ended the reading; whoever raises it clears it.
    arrived: called when there is something new to see.
    """

    def __init__(
        self,
        connection: Connection,
        at: TopicPartition,
        start: Start,
        limits: TailLimits,
        arrived: Callable[[], None],
    ) -> None:
        self.at = at
        self._records: deque[Record] = deque()
        self.end_offset = start.partition.end_offset
        self.stop_offset = start.stop_offset
        self.paused = False
        self.error: Exception | None = None
        self.limits = limits
        self._connection = connection
        self._arrived = arrived
        self._incarnation_id = start.partition.incarnation_id
        self._first = start.first  # to be asked for; EARLIEST until something came
        self._after_loaded = start.position
        self._read_all = start.stop_offset is not None and start.position >= start.stop_offset
        self._task: asyncio.Task[None] | None = None
        self._responses: deque[tuple[ResponseColumns, int]] = deque()
        self._buffered_bytes = 0
        self._taken = asyncio.Event()

    def start(self) -> None:
        """Read, if nobody does and there is more to read."""
        if self._task is None and not self._read_all:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Read no more, and hand out no more of what was read."""
        self._responses.clear()
        self._records.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    @property
    def position(self) -> int:
        """The offset after the last record that was handed out."""
        return self._records[0].offset if self._records else self._after_loaded

    @property
    def finished(self) -> bool:
        """Everything up to stop_offset was handed out."""
        return self._read_all and not self._responses and not self._records

    def load(self) -> bool:
        """Whether there are records to hand out."""
        if self.paused:
            return False
        if not self._records and self._responses:
            columns, size_bytes = self._responses.popleft()
            self._buffered_bytes -= size_bytes
            self._taken.set()
            self._records.extend(_records(self.at, columns))
            self._after_loaded = columns.offsets[-1] + 1
        return bool(self._records)

    def hand_out(self) -> Iterator[Record]:
        """The loaded records one by one, until there are no more or it is paused."""
        records = self._records
        while records and not self.paused:
            yield records.popleft()

    def take(self) -> RecordBatch:
        """The loaded records at once."""
        records = list(self._records)
        self._records.clear()
        return RecordBatch(*self.at, records, self.end_offset)

    async def _run(self) -> None:
        """Read until stop_offset, or until an error that does not pass."""
        try:
            await self._read_on()
        except Exception as error:  # noqa: BLE001  raised to the one who takes records
            self.error = error
        finally:
            self._task = None
            self._arrived()

    async def _read_on(self) -> None:
        """Streams, one after the other; an outage begins with the first one that brings nothing."""
        failures = 0
        deadline = time.monotonic() + self.limits.outage_s_max
        while not self._read_all:
            try:
                await self._connection.connect(deadline)
                call = self._connection.stream(self._request())
                try:
                    columns = await self._read(call)
                    await self._check_incarnation()
                    while columns is not None:
                        await self._keep(*columns)
                        failures = 0
                        deadline = time.monotonic() + self.limits.outage_s_max
                        columns = await self._read(call)
                    self._read_all = True
                finally:
                    await ended(call)
            except UnavailableError as error:
                failures += 1
                if not await self._connection.pause(failures, error, deadline):
                    raise

    def _request(self) -> pb.ConsumeMessagesRequest:
        return pb.ConsumeMessagesRequest(
            topic=self.at.topic,
            partition=self.at.partition,
            offset=self._first,
            stop_offset=self.stop_offset,
            max_bytes=min(RESPONSE_BYTES_MAX, max(self.limits.buffer_bytes_max // 2, 1)),
        )

    async def _read(self, call: Stream) -> tuple[ResponseColumns, int] | None:
        """The next response and its bytes; None once stop_offset is reached."""
        try:
            async with asyncio.timeout(self.limits.silence_s_max):
                raw = await call.read()
        except TimeoutError:
            raise NoAnswerError(
                f"{self._connection.server} was silent for {self.limits.silence_s_max} s"
            ) from None
        except grpc.aio.AioRpcError as error:
            raise self._connection.error_of(error) from error
        if isinstance(raw, bytes):
            return ResponseColumns(raw), len(raw)
        if self.stop_offset is None:
            raise NoAnswerError(f"{self._connection.server} ended a stream that has no end")
        return None

    async def _keep(self, columns: ResponseColumns, size_bytes: int) -> None:
        """Put a response where it can be taken from; returns when there is room for another."""
        self.end_offset = columns.end_offset
        if not columns.offsets:
            return  # idle, and alive
        self._first = columns.offsets[-1] + 1
        self._responses.append((columns, size_bytes))
        self._buffered_bytes += size_bytes
        self._arrived()
        while self._buffered_bytes >= self.limits.buffer_bytes_max:
            self._taken.clear()
            await self._taken.wait()

    async def _check_incarnation(self) -> None:
        """Raise LogReplacedError if the stream that has begun is of another log than the one before.

        Asked after the first response: an older copy can only be put back while no broker runs, so an
        answer with the old id, coming later, was given by one that had the old log all along.
        """
        topic, partition = self.at
        found = await describe(self._connection, topic, time.monotonic() + self.limits.silence_s_max)
        if partition >= len(found.partitions):
            raise UnknownPartitionError(topic, partition, len(found.partitions))
        incarnation_id = found.partitions[partition].incarnation_id
        if incarnation_id != self._incarnation_id:
            raise LogReplacedError(
                f"the log of topic {topic!r} partition {partition} is another one than before: an older copy "
                f"was put back, or the topic was created anew; offsets below {self._first} may stand for "
                "other records now",
                topic=topic,
                partition=partition,
                incarnation_id=incarnation_id,
            )


def _records(at: TopicPartition, columns: ResponseColumns) -> Iterator[Record]:
    """The records of a response. No Python code runs for each of them."""
    headers = columns.headers
    fields = zip(
        repeat(at.topic),
        repeat(at.partition),
        columns.offsets,
        columns.timestamps,
        columns.keys,
        columns.values,
        [headers.get(i, ()) for i in range(len(columns.offsets))] if headers else repeat(()),
    )
    return map(tuple.__new__, repeat(Record), fields)
