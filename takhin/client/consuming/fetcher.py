"""Reads one partition: a stream that is reopened where it broke. Knows nothing of the other partitions."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass

from takhin.client.calls import Calls
from takhin.client.clock import monotonic
from takhin.client.consuming.arrivals import Arrivals
from takhin.client.consuming.positions import ReadRange
from takhin.client.consuming.prefetched import Prefetched
from takhin.client.consuming.scout import TAILS_MAX, Scout
from takhin.client.errors import NoAnswerError
from takhin.client.retry import Retry, pause
from takhin.client.streams import ConsumeStream
from takhin.client.unread import Unread
from takhin.errors import LogReplacedError, UnavailableError
from takhin.model import TopicPartition

RESPONSE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """What is the same for all partitions of an assignment.

    buffer_bytes_max: of each partition's records that wait; one response may pass it.
    scout: None: the stream of a partition stays open and brings what is new. Else each stream ends where the
    log ends, and the scout says when to open another.
    """

    buffer_bytes_max: int
    silence_s_max: float
    outage_s_max: float
    retry: Retry
    scout: Scout | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPlan:
    """How a consumer reads, however many partitions it has.

    prefetch_bytes_max: of the records of all partitions that wait. scout: used where they are many.
    """

    prefetch_bytes_max: int
    silence_s_max: float
    outage_s_max: float
    retry: Retry
    scout: Scout

    def options(self, partitions: int) -> FetchOptions:
        """The options of each of so many partitions."""
        return FetchOptions(
            buffer_bytes_max=max(self.prefetch_bytes_max // max(partitions, 1), 1),
            silence_s_max=self.silence_s_max,
            outage_s_max=self.outage_s_max,
            retry=self.retry,
            scout=self.scout if partitions > TAILS_MAX else None,
        )


class Fetcher:
    """Life: `start`, records by way of `prefetched`, `shut`. After an error it may be started again.

    prefetched: what was read and waits to be handed out.
    stop_offset: exclusive; None for no end.
    incarnation_id: of the log that is read.
    error: what ended the reading; whoever raises it sets it to None.
    held: while it is True, nothing is read.
    arrivals: joined by the fetcher when there is something new to look at.
    """

    def __init__(
        self,
        calls: Calls,
        at: TopicPartition,
        read_range: ReadRange,
        options: FetchOptions,
        arrivals: Arrivals[Fetcher],
    ) -> None:
        partition = read_range.partition
        self.at = at
        self.options = options
        self.prefetched = Prefetched(at, read_range.position, partition.end_offset, options.buffer_bytes_max)
        self.stop_offset = read_range.stop_offset
        self.incarnation_id = partition.incarnation_id
        self.error: Exception | None = None
        self._calls = calls
        self._arrivals = arrivals
        self._scout = options.scout
        self._place: AbstractAsyncContextManager[None] = (
            options.scout.reads if options.scout else nullcontext()
        )
        self._known = partition  # as it was before the last stream was opened
        self._first = read_range.first  # the offset to request; EARLIEST until a record came
        self._read_all = self.stop_offset is not None and read_range.position >= self.stop_offset
        self._caught_up = read_range.position == partition.end_offset
        self._task: asyncio.Task[None] | None = None
        self.stopped = False
        self.held = False

    def start(self) -> None:
        """Read, unless it is reading already, has read all, is held, or was shut."""
        if self._task is None and not (self._read_all or self.held or self.stopped):
            self._task = asyncio.get_running_loop().create_task(self._read_on())
            self._task.add_done_callback(self._ended)

    def shut(self) -> asyncio.Task[None] | None:
        """Stop reading for good, and hand out nothing more. Returns a task that may take a moment to end."""
        self.stopped = True
        self.prefetched.clear()
        if self._task is not None:
            self._task.cancel()
        return self._task

    @property
    def finished(self) -> bool:
        """True if everything up to stop_offset was handed out."""
        return self._read_all and self.prefetched.empty

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Reading has ended: at stop_offset, by an error that does not pass, or cancelled by anybody.

        After a cancellation that was not meant for it, whoever takes records out starts it again.
        """
        self._task = None
        if not task.cancelled() and isinstance(fault := task.exception(), Exception):
            self.error = fault
        if not self.stopped:
            self._arrivals.add(self)

    async def _read_on(self) -> None:
        """Read streams one after the other. An outage begins with the first one that fails."""
        failures, deadline = 0, 0.0
        while not self._read_all:
            try:
                await self._something_new()
                async with self._place:
                    if not failures:
                        deadline = self._outage_deadline()
                    stops_at_end = self._stops_at_end()
                    async with self._opened(deadline, stops_at_end=stops_at_end) as stream:
                        while (response := await self._next(stream, stops_at_end=stops_at_end)) is not None:
                            self._keep(response)
                            failures, deadline = 0, self._outage_deadline()
                            if self._scout is None:
                                await self.prefetched.room()
                            elif self.prefetched.full:
                                break  # others may want the place
                        else:
                            failures, self._caught_up, self._read_all = 0, True, not stops_at_end
            except UnavailableError as error:
                failures += 1
                if not await pause(self.options.retry, failures, error, deadline):
                    raise
            except LogReplacedError as error:
                raise self._replaced(error) from error

    async def _something_new(self) -> None:
        """With a scout: return when there is room, and when there seems to be something to read."""
        if self._scout is None:
            return
        await self.prefetched.room()
        if self._caught_up:
            found = await self._scout.changed(self.at, self._known)
            if found is not None:
                self.prefetched.end_offset = found.end_offset
            self._caught_up = False  # until a stream has reached the end: it may be left before, for room
        self._known = self._known._replace(end_offset=self.prefetched.end_offset)

    def _stops_at_end(self) -> bool:
        """True if the next stream is to end where the log ends, and not at stop_offset or never."""
        within_log = self.stop_offset is not None and self.stop_offset <= self._known.end_offset
        return self._scout is not None and not within_log

    def _opened(self, deadline: float, *, stops_at_end: bool) -> AbstractAsyncContextManager[ConsumeStream]:
        return self._calls.consume_messages(
            deadline,
            self.at,
            offset=self._first,
            stop_offset=self.stop_offset,
            stop_at_end=stops_at_end,
            incarnation_id=self.incarnation_id,
            response_bytes_max=min(RESPONSE_BYTES_MAX, max(self.options.buffer_bytes_max // 2, 1)),
        )

    async def _next(self, stream: ConsumeStream, *, stops_at_end: bool) -> Unread | None:
        """The next response; None once the end or stop_offset is reached."""
        response = await stream.read(silence_s_max=self.options.silence_s_max)
        if response is None and self.stop_offset is None and not stops_at_end:
            raise NoAnswerError(f"{self._calls.server} ended a stream that has no end")
        return response

    def _keep(self, response: Unread) -> None:
        """Put a response where it can be taken from."""
        self.prefetched.end_offset = response.end_offset
        if not response:
            return  # the stream is idle, and alive
        self._first = response.after
        self.prefetched.add(response)
        self._arrivals.add(self)

    def _replaced(self, error: LogReplacedError) -> LogReplacedError:
        """The broker's error, with what it means for this reader."""
        return LogReplacedError.as_sent(
            f"{error}; offsets below {self._first} may stand for other records now", error.details
        )

    def _outage_deadline(self) -> float:
        return monotonic() + self.options.outage_s_max
