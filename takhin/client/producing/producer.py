"""`Producer`: the face of `takhin.client.producing`. Owns the arguments and their checks, and no state."""

from __future__ import annotations

import asyncio
from asyncio import current_task
from collections.abc import Iterable
from datetime import datetime
from threading import get_ident
from typing import Literal

import grpc

from takhin.client.base import Client
from takhin.client.forks import forked
from takhin.client.model import Appended, Headers, NewRecord
from takhin.client.producing.batches import Delivery
from takhin.client.producing.intake import UNFIT, Intake
from takhin.client.producing.options import SendOptions
from takhin.client.retry import Retry
from takhin.client.tls import Tls, TlsFiles
from takhin.errors import InvalidArgumentError
from takhin.limits import check_range
from takhin.model import Source
from takhin.settings import INT32_MAX

YIELD_RECORDS = 512
"""After so many records, a task that sends in a loop gives the others a turn."""


class Producer(Client):
    """Sends records to one broker. For one event loop; any number of its tasks may send.

    While a request for a partition is under way, the records that follow gather into the next one: batches
    grow with the load by themselves, and a lone record goes at once. Records of one partition are stored
    in the order of the calls. Every record is stored once, whatever happens to broker and connection, or
    its delivery says that it was not, or that nobody knows (OutcomeUnknownError).

    linger_ms: how long a batch waits for more records even though nothing is under way; for many small
    streams.
    batch_records_max, batch_bytes_max: of one request; a larger single record still goes. A request has to
    be smaller than the broker's rpc.message_bytes_max.
    buffer_bytes_max: of records that are not acknowledged yet, in all; above it `send` waits.
    in_flight_max: requests under way, one for each partition.
    delivery_timeout_ms: from `send` until a record is acknowledged, or its delivery fails.
    idempotent: let the broker recognise what is sent again. Without it a retry may store records twice, and
    a retried `append` may fail with EndOffsetMismatchError because its first attempt succeeded.
    compression: "zstd" compresses the records of a request on their way to the broker (the extra `zstd`).
    traces: make spans by OpenTelemetry, if the program has set it up (the extra `otel`); see docs/tracing.md.
    """

    _kind = "Producer"

    def __init__(
        self,
        server: str,
        *,
        linger_ms: int = 0,
        batch_records_max: int = 8_000,
        batch_bytes_max: int = 1 << 20,
        buffer_bytes_max: int = 16 << 20,
        in_flight_max: int = 8,
        delivery_timeout_ms: int = 120_000,
        idempotent: bool = True,
        compression: Literal["zstd"] | None = None,
        traces: bool = False,
        tls: Tls | TlsFiles | grpc.ChannelCredentials | None = None,
        token: str | None = None,
        retry: Retry | None = None,
    ) -> None:
        check_range("delivery_timeout_ms", delivery_timeout_ms, 1)
        super().__init__(server, tls, token, retry, compression, traces=traces)
        options = SendOptions(
            batch_records_max=check_range("batch_records_max", batch_records_max, 1),
            batch_bytes_max=check_range("batch_bytes_max", batch_bytes_max, 1, INT32_MAX),
            buffer_bytes_max=check_range("buffer_bytes_max", buffer_bytes_max, 1),
            in_flight_max=check_range("in_flight_max", in_flight_max, 1),
            linger_s=check_range("linger_ms", linger_ms, 0) / 1_000,
            delivery_s_max=delivery_timeout_ms / 1_000,
            idempotent=idempotent,
            retry=self._retry,
        )
        self._intake = Intake(self._calls, options)
        self._left_of_turn = YIELD_RECORDS

    async def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp: datetime | int | None = None,
        partition: int | None = None,
    ) -> Delivery:
        """Hand a record over. Waits only for room in the buffer; await the Delivery for the outcome.

        key: decides the partition, as in Kafka's Java client; without keys, partitions are filled in turn.
        headers: pairs of str and bytes; keys may repeat, order is kept.
        timestamp: an aware datetime or ms since 1970; None and 0: the broker's clock.
        partition: the partition to use, instead of that choice.

        Raises what the producer can tell by itself, and has not taken the record then: InvalidRecordError,
        RecordTooLargeError, UnknownTopicError, UnknownPartitionError, InvalidArgumentError for a timestamp,
        ClosedError, ForkedError, OtherLoopError, and, for the first record of a topic, UnavailableError
        after delivery_timeout_ms without a broker. Whatever the broker says of the record is the delivery's.
        """
        # In a forked process the intake is shut. (To ask for the running loop takes twice as long as this.)
        connection = self._connection
        if current_task(connection.loop) is None or get_ident() != connection.thread_id:
            connection.check_here()
        while (router := self._intake.router(topic)) is None:
            await self._intake.ready(topic)
        try:
            delivery = router.put(Delivery, value, key, headers, timestamp, partition)
        except UNFIT:
            if not await self._intake.altered(topic):
                raise
            return await self.send(
                topic, value, key=key, headers=headers, timestamp=timestamp, partition=partition
            )
        self._left_of_turn -= 1
        if not self._left_of_turn:
            self._left_of_turn = YIELD_RECORDS
            await asyncio.sleep(0)
        return delivery

    async def append(
        self,
        topic: str,
        records: Iterable[NewRecord | bytes],
        *,
        partition: int,
        expected_offset: int | None = None,
        source: Source | None = None,
    ) -> Appended:
        """Store records as one batch, all or none, at consecutive offsets; returns when they are durable.

        They come after all that was sent to the partition before. expected_offset: store them only if the
        log ends there; else EndOffsetMismatchError, whose `end_offset` says where it ends. So of several
        writers one wins, which is what event sourcing asks of a log.

        source: the record that they were made of, as `Consumer.source` says. They are stored unless the log
        has records made of it, or of a later one of its partition, for the same group; then the result is a
        `duplicate`. So whoever reads the input again, in order, writes nothing twice, as long as there is one
        batch for each input record and partition. docs/transform.md has the recipe.

        Raises whatever `send` and a delivery raise, and InvalidBatchError where there are no records. With a
        source: also UnknownTopicError, OffsetOutOfRangeError and LogReplacedError for its own topic and log,
        InvalidArgumentError if the partition remembers too many of them.
        """
        if expected_offset is not None:
            check_range("expected_offset", expected_offset, 0)
        if source is not None and not isinstance(source, Source):
            raise InvalidArgumentError(f"Consumer.source(record) makes a source; this is a {type(source)}")
        self._connection.check_here()
        together = list(records)
        while (router := self._intake.router(topic)) is None:
            await self._intake.ready(topic)
        try:
            batch = router.put_whole(together, partition, expected_offset, source)
        except UNFIT:
            if not await self._intake.altered(topic):
                raise
            return await self.append(
                topic, together, partition=partition, expected_offset=expected_offset, source=source
            )
        await batch.wait()
        return Appended(*batch.metadata(0), len(together))

    async def flush(self) -> None:
        """Return when every record sent before is acknowledged or has failed.

        Raises FlushError with all failures that nobody has seen by awaiting a delivery, if there are any.
        """
        self._connection.check_here()
        await self._intake.outbox.flush()

    async def close(self) -> None:
        """Flush, then give up the connection; takes delivery_timeout_ms at most. Raises as `flush` does.

        Cancelled, it ends at once: records whose request is under way fail with OutcomeUnknownError, the
        others with ClosedError. May be called again, and does nothing in a forked process: the records are
        the parent's.
        """
        if forked():
            return
        self._intake.shut()
        try:
            await self._intake.outbox.flush()
        finally:
            await self._intake.outbox.cancel()
            await super().close()


class ThreadedProducer(Producer):
    """A producer that shows its inner interface, for takhin.client.sync: its users are on other threads."""

    @property
    def intake(self) -> Intake:
        return self._intake
