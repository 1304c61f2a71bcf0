"""Reads one partition: a stream that is reopened where it broke. Knows nothing of the other partitions."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from takhin.client.calls import Calls, ConsumeResponse, ConsumeStream
from takhin.client.consuming.positions import ReadRange
from takhin.client.consuming.prefetched import Prefetched
from takhin.client.errors import LogReplacedError, NoAnswerError
from takhin.client.retry import Retry, pause, retried
from takhin.errors import UnavailableError, UnknownPartitionError
from takhin.model import TopicPartition

RESPONSE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """What is the same for all partitions of an assignment.

    buffer_bytes_max: of each partition's records that wait; one response may pass it.
    """

    buffer_bytes_max: int
    silence_s_max: float
    outage_s_max: float
    retry: Retry


class Fetcher:
    """Life: `start`, records by way of `prefetched`, `stop`. After an error it may be started again.

    prefetched: what was read and waits to be handed out.
    stop_offset: exclusive; None for no end.
    error: what ended the reading; whoever raises it sets it to None.
    arrived: set when there is something new to look at.
    """

    def __init__(
        self,
        calls: Calls,
        at: TopicPartition,
        read_range: ReadRange,
        options: FetchOptions,
        arrived: asyncio.Event,
    ) -> None:
        partition = read_range.partition
        self.at = at
        self.options = options
        self.prefetched = Prefetched(at, read_range.position, partition.end_offset, options.buffer_bytes_max)
        self.stop_offset = read_range.stop_offset
        self.error: Exception | None = None
        self._calls = calls
        self._arrived = arrived
        self._incarnation_id = partition.incarnation_id
        self._first = read_range.first  # the offset to request; EARLIEST until a record came
        self._read_all = self.stop_offset is not None and read_range.position >= self.stop_offset
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Read, unless it is reading already or has read all."""
        if self._task is None and not self._read_all:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop reading, and hand out nothing more."""
        self.prefetched.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    @property
    def finished(self) -> bool:
        """True if everything up to stop_offset was handed out."""
        return self._read_all and self.prefetched.empty

    async def _run(self) -> None:
        """Read until stop_offset, or until an error that does not pass."""
        try:
            await self._read_on()
        except Exception as error:  # noqa: BLE001  raised to whoever takes records out
            self.error = error
        finally:
            self._task = None
            self._arrived.set()

    async def _read_on(self) -> None:
        """Read streams one after the other. An outage begins with the first one that brings nothing."""
        failures, deadline = 0, self._outage_deadline()
        while not self._read_all:
            try:
                async with self._calls.consume_messages(
                    deadline,
                    self.at,
                    offset=self._first,
                    stop_offset=self.stop_offset,
                    response_bytes_max=min(RESPONSE_BYTES_MAX, max(self.options.buffer_bytes_max // 2, 1)),
                ) as stream:
                    response = await self._next(stream)
                    await self._check_incarnation()
                    while response is not None:
                        await self._keep(response)
                        failures, deadline = 0, self._outage_deadline()
                        response = await self._next(stream)
                    self._read_all = True
            except UnavailableError as error:
                failures += 1
                if not await pause(self.options.retry, failures, error, deadline):
                    raise

    async def _next(self, stream: ConsumeStream) -> ConsumeResponse | None:
        """The next response; None once stop_offset is reached."""
        response = await stream.read(silence_s_max=self.options.silence_s_max)
        if response is None and self.stop_offset is None:
            raise NoAnswerError(f"{self._calls.server} ended a stream that has no end")
        return response

    async def _keep(self, response: ConsumeResponse) -> None:
        """Put a response where it can be taken from; returns when there is room for another."""
        columns = response.columns
        self.prefetched.end_offset = columns.end_offset
        if not columns.offsets:
            return  # the stream is idle, and alive
        self._first = columns.offsets[-1] + 1
        self.prefetched.add(response)
        self._arrived.set()
        await self.prefetched.room()

    async def _check_incarnation(self) -> None:
        """Raise LogReplacedError if the new stream reads another log than the one before.

        Call it after the first response: an older copy can only be put back while no broker runs, so if a
        later answer has the old id, the response came from the old log.
        """
        topic, partition = self.at
        deadline = time.monotonic() + self.options.silence_s_max
        found = await retried(self.options.retry, deadline, self._calls.get_topic, topic)
        if partition >= len(found.partitions):
            raise UnknownPartitionError(topic, partition, len(found.partitions))
        incarnation_id = found.partitions[partition].incarnation_id
        if incarnation_id != self._incarnation_id:
            raise LogReplacedError(
                f"the log of topic {topic!r} partition {partition} is another one than before: an older copy "
                "was put back, or the topic was deleted and created again; "
                f"offsets below {self._first} may stand for other records now",
                topic=topic,
                partition=partition,
                incarnation_id=incarnation_id,
            )

    def _outage_deadline(self) -> float:
        return time.monotonic() + self.options.outage_s_max
