"""Whether a batch that is sent under a condition may be appended. Pure: both engines judge by it.

A producer numbers its records, for each partition from 0. A log remembers the last batches of each producer,
so it recognises one that is sent again because its answer was lost: such a batch gets the first answer once
more and is not stored again. (Kafka does the same, with as many batches: ProducerStateEntry in
org.apache.kafka.storage.internals.log.)

A program that reads as a group, transforms and writes says of which input record a batch was made: its
source. A log remembers the highest offset that it has taken of each input log for each group. Whoever goes
through that input again, after a crash or as the next owner of its partition, stores nothing a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from takhin.errors import EndOffsetMismatchError, InvalidArgumentError, OutOfSequenceError
from takhin.model import NO_TIMESTAMP, Appended, Batch, Condition, Source, TopicSpec

BATCHES_REMEMBERED = 5
"""Batches of one producer that a log remembers: it may have as many under way at once. Kafka's number,
and the number of slots in the table: not a setting."""
NO_OFFSET = -1
"""Stands for an offset that is not known any more."""


class Remembered(NamedTuple):
    """A batch that was stored. offset and timestamp (ms) are those of its first record."""

    sequence: int
    record_count: int
    offset: int
    timestamp: int
    slot: int
    """Its place among those of its producer, 0 to BATCHES_REMEMBERED - 1, used in turn."""


class Known(NamedTuple):
    """What a log remembers of those that a batch names.

    batches: of the batch's producer, in any order.
    taken: the highest offset that the log has taken of the batch's source; None: none, or there is no source.
    """

    batches: Sequence[Remembered] = ()
    taken: int | None = None


def judge(
    condition: Condition,
    record_count: int,
    known: Known,
    *,
    topic: str,
    partition: int,
    end: int,
    forgotten_before: Callable[[], int],
) -> Appended | None:
    """The answer to a batch that was stored before; None for one that is to be appended at `end`.

    forgotten_before: asks for an offset. Producers whose last batch is there or behind it are all remembered.
    Raises OutOfSequenceError, EndOffsetMismatchError.
    """
    remembered = known.batches
    in_sequence = not condition.producer_id or condition.sequence == _next_sequence(remembered)
    if not in_sequence:
        for stored in remembered:
            if stored[:2] == (condition.sequence, record_count):
                return Appended(partition, stored.offset, stored.timestamp, record_count, duplicate=True)
    source = condition.source
    if source is not None and known.taken is not None and source.offset <= known.taken:
        return Appended(partition, NO_OFFSET, NO_TIMESTAMP, record_count, duplicate=True)
    if not in_sequence:
        raise _out_of_sequence(condition.sequence, record_count, remembered, topic, partition)
    maybe = condition.maybe_stored_from
    if maybe is not None and not remembered and maybe < forgotten_before():
        raise _out_of_sequence(condition.sequence, record_count, remembered, topic, partition)
    expected = condition.expected_offset
    if expected is not None and expected != end:
        raise EndOffsetMismatchError(topic, partition, expected, end)
    return None


def to_remember(batch: Batch, sequence: int, remembered: Sequence[Remembered], offset: int) -> Remembered:
    """What is to be known of a batch that lands at `offset`; it takes the place of the one in its slot."""
    slot = (max(remembered).slot + 1) % BATCHES_REMEMBERED if remembered else 0
    return Remembered(sequence, len(batch), offset, batch.first_timestamp, slot)


def to_forget(producers: int, producers_max: int) -> int:
    """How many of so many remembered producers give way to a new one, those silent for longest.

    A tenth at a time, since to find them takes as long as to find one.
    """
    if producers < producers_max:
        return 0
    return producers + 1 - _fewest_left(producers_max)


def may_have_forgotten(producers: int, producers_max: int) -> bool:
    """True if a log that remembers so many producers may have forgotten others."""
    return producers >= _fewest_left(producers_max)


def _fewest_left(producers_max: int) -> int:
    """How many producers a log remembers at least, once it has forgotten any."""
    return producers_max - producers_max // 10


def too_many_sources(source: Source, sources_max: int, topic: str, partition: int) -> InvalidArgumentError:
    """The error for a new source where there is no room for it.

    To forget another one, as with producers, would store its next batch twice and tell nobody.
    """
    return InvalidArgumentError(
        f"topic {topic!r} partition {partition} remembers the sources of {sources_max} groups and input "
        f"partitions already, so it takes no batch made of topic {source.topic!r} partition "
        f"{source.partition} by group {source.group_id!r}: delete groups that are not used any more, or "
        "raise storage.sources_max",
        field="source",
        value=source.group_id,
    )


def fewer_partitions(spec: TopicSpec, present: int) -> InvalidArgumentError:
    """The error for a change that would take partitions away."""
    return InvalidArgumentError(
        f"topic {spec.name!r} has {present} partitions, and their number only grows: it cannot become "
        f"{spec.num_partitions}",
        field="num_partitions",
        value=spec.num_partitions,
    )


def _next_sequence(remembered: Sequence[Remembered]) -> int:
    if not remembered:
        return 0
    newest = max(remembered)
    return newest.sequence + newest.record_count


def _out_of_sequence(
    sequence: int, record_count: int, remembered: Sequence[Remembered], topic: str, partition: int
) -> OutOfSequenceError:
    expected = _next_sequence(remembered)
    if not remembered:
        why = (
            "the log knows nothing of this producer (any more), which would have to begin at 0, with a batch "
            "that was not sent before"
        )
    elif sequence > expected:
        why = f"there is a gap: the producer's next record is {expected}"
    elif sequence < min(remembered).sequence:
        why = (
            f"it is too old a repeat: the producer is at {expected} already, and only its last "
            f"{BATCHES_REMEMBERED} batches, from {min(remembered).sequence} on, are remembered"
        )
    else:
        why = f"the producer is at {expected} already, and this is none of its batches"
    return OutOfSequenceError(
        f"{record_count} records from sequence {sequence} on are not appended to topic {topic!r} partition "
        f"{partition}: {why}",
        topic=topic,
        partition=partition,
        sequence=sequence,
        expected_sequence=expected,
    )
