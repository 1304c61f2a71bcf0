"""The delivery policy: how often a batch is sent, when it is split, and when its outcome is unknown.

Knows neither queues nor tasks: it is given one batch at a time. The waits between attempts are those of
`takhin.client.retry`.
"""

from __future__ import annotations

import asyncio
from itertools import count

from takhin.client.calls import Calls
from takhin.client.errors import CallFailedError, NoAnswerError
from takhin.client.producing.batches import PendingBatch
from takhin.client.producing.doubts import Doubts
from takhin.client.producing.identity import Identity
from takhin.client.producing.options import SendOptions
from takhin.client.retry import pause
from takhin.errors import (
    InternalError,
    InvalidArgumentError,
    InvalidBatchError,
    InvalidRecordError,
    LogReplacedError,
    OffsetOutOfRangeError,
    OutcomeUnknownError,
    OutOfSequenceError,
    PartitionUnavailableError,
    ReadOnlyTopicError,
    RecordTooLargeError,
    RefusedError,
    TakhinError,
    UnavailableError,
    UnknownPartitionError,
    UnknownTopicError,
)

MAYBE_STORED = (NoAnswerError, OutcomeUnknownError, PartitionUnavailableError, InternalError)
"""After these errors the batch may be in the log, or may still get there."""
OF_ONE_RECORD = (InvalidArgumentError, InvalidBatchError, InvalidRecordError, RecordTooLargeError)
"""One bad record causes these. The batch is split in halves and sent again, so the others get through."""
UNJUDGED = (*OF_ONE_RECORD, ReadOnlyTopicError)
"""Refusals that come before the broker looks whether the batch is a repeat."""
ANOTHER_TOPIC = (UnknownTopicError, UnknownPartitionError, LogReplacedError)
"""These may mean that the topic was deleted and created again."""
OF_SOURCE = (*ANOTHER_TOPIC, OffsetOutOfRangeError)
"""They may be about a batch's source, and then come before the broker looks whether the batch is a repeat."""


class Sender:
    """Sends the batches of one partition, one after the other.

    topic_id: of the topic that the batches are meant for.
    end_offset: where the partition's log ended at some time before this.
    slots: shared by a producer's senders; bounds the requests under way.
    doubts: gets each topic that may have been deleted and created again, and how many partitions it has.
    """

    def __init__(
        self,
        calls: Calls,
        topic_id: str,
        options: SendOptions,
        slots: asyncio.Semaphore,
        doubts: Doubts,
        *,
        end_offset: int,
    ) -> None:
        self._calls = calls
        self._topic_id = topic_id
        self._end_offset = end_offset
        self._retry = options.retry
        self._identity = Identity(idempotent=options.idempotent)
        self._slots = slots
        self._doubts = doubts

    async def send(self, batch: PendingBatch) -> None:
        """Fill the batch's outcomes, also where it raises. This takes no longer than the batch's deadline."""
        await self._send(batch, 0, len(batch.records))

    async def _send(self, batch: PendingBatch, start: int, stop: int) -> None:
        """Add the outcomes of the batch's records from `start` up to `stop`."""
        outcome: int | Exception
        try:
            outcome = await self._stored(batch, start, stop)
        except OF_ONE_RECORD as error:
            if stop - start > 1 and not batch.whole:
                middle = (start + stop) // 2
                await self._send(batch, start, middle)
                await self._send(batch, middle, stop)
                return
            outcome = error
        except TakhinError as error:
            if isinstance(error, ANOTHER_TOPIC):
                self._doubts.add(batch.at.topic)
            outcome = error
        except BaseException as error:
            reason = f"sending was interrupted by {type(error).__name__}"
            batch.outcomes.append((start, OutcomeUnknownError(reason)))  # and that of all that follow
            raise
        batch.outcomes.append((start, outcome))

    async def _stored(self, batch: PendingBatch, start: int, stop: int) -> int:
        """The offset of the record at `start`; -1 if the batch's source was taken before.

        Keeps the identity in step with what the broker has seen.
        """
        records = batch.records if stop - start == len(batch.records) else batch.records[start:stop]
        try:
            offset = await self._attempts(batch, records)
        except RefusedError:  # uses up no sequence number
            raise
        except BaseException:
            # The attempt may have used this sequence number, so take a new producer id rather than reuse it.
            self._identity.renew()
            raise
        if offset >= 0:  # else its source was taken before, which uses up no sequence number either
            self._identity.advance(len(records))
            self._end_offset = max(self._end_offset, offset + len(records))
        return offset

    async def _attempts(self, batch: PendingBatch, records: list[bytes]) -> int:
        """Try until the records are stored, or until there is no time or no point in trying again."""
        maybe_stored = False
        for failures in count(1):
            try:
                return await self._attempt(batch, records, maybe_stored=maybe_stored)
            except OutOfSequenceError as error:
                # The log knows fewer of our batches than it has acknowledged: it has forgotten this producer,
                # or is an older copy.
                if maybe_stored:
                    raise OutcomeUnknownError(
                        "an attempt went unanswered, and the broker has since forgotten this producer: "
                        "the records may have been stored"
                    ) from error
                if self._identity.is_new:
                    raise
                self._identity.renew()
            except (*UNJUDGED, *OF_SOURCE) as error:
                unjudged = batch.source is not None or isinstance(error, UNJUDGED)
                if maybe_stored and unjudged:  # by the attempt before: the topic was altered in between
                    raise OutcomeUnknownError(
                        "an attempt went unanswered, and the next one was refused: the records may have "
                        f"been stored ({error})"
                    ) from error
                raise
            except (UnavailableError, InternalError, CallFailedError) as error:
                maybe_stored = maybe_stored or isinstance(error, MAYBE_STORED)
                if isinstance(error, UnavailableError) and await pause(
                    self._retry, failures, error, batch.deadline
                ):
                    continue
                if maybe_stored:
                    raise OutcomeUnknownError(
                        f"not acknowledged; whether the records were stored is unknown ({error})"
                    ) from error
                raise
        raise AssertionError  # count has no end

    async def _attempt(self, batch: PendingBatch, records: list[bytes], *, maybe_stored: bool) -> int:
        async with self._slots:
            produced = await self._calls.produce_message(
                batch.deadline,
                batch.at,
                records,
                producer_id=self._identity.producer_id,
                sequence=self._identity.sequence,
                expected_offset=batch.expected_offset,
                source=batch.source,
                topic_id=self._topic_id,
                maybe_stored_from=self._end_offset if maybe_stored and self._identity.producer_id else None,
            )
        self._doubts.told(batch.at.topic, produced.num_partitions)
        return produced.offset
