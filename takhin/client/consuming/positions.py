"""What a position means as an offset: pure rules. lookup.py asks the broker for what they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from takhin.client.model import COMMITTED, START, PartitionDescription, Place, Position, Span, ms_of
from takhin.errors import InvalidArgumentError
from takhin.limits import check_range
from takhin.model import EARLIEST, INT64_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRange:
    """A span of one partition as offsets.

    first: the offset to request, or EARLIEST; position: the same as a number.
    stop_offset: exclusive; None for no end.
    partition: as it was described when the range was looked up.
    """

    first: int
    position: int
    stop_offset: int | None
    partition: PartitionDescription


def check_span(span: Span) -> Span:
    """`span` as it is. Raises InvalidArgumentError if its start or stop is no position."""
    check_position("start", span.start)
    if span.stop is not None:
        check_position("stop", span.stop)
    return span


def check_position(name: str, position: Position) -> Position:
    """`position` as it is. Raises InvalidArgumentError, which calls it `name`."""
    match position:
        case Place():
            pass
        case datetime():
            ms_of(position)
        case int() if not isinstance(position, bool):
            check_range(name, position, 0)
        case _:
            raise InvalidArgumentError(
                f"{name} is START, END, COMMITTED, an offset or a datetime, not {position!r}", field=name
            )
    return position


def check_uncommitted(position: Position) -> Position:
    """`position` as it is. Raises InvalidArgumentError for COMMITTED, which would stand for itself."""
    if is_committed(position):
        raise InvalidArgumentError("uncommitted is another place than COMMITTED", field="uncommitted")
    return position


def is_committed(position: Position | None) -> bool:
    """True for COMMITTED, plus or minus any number of records."""
    return isinstance(position, Place) and position.name == COMMITTED.name


def without_committed(span: Span, committed: int | None, uncommitted: Position) -> Span:
    """The span with an offset in place of COMMITTED; with `uncommitted` if nothing is committed."""

    def replaced(position: Position) -> Position:
        if not (isinstance(position, Place) and is_committed(position)):
            return position
        return uncommitted if committed is None else committed + position.records

    return Span(replaced(span.start), None if span.stop is None else replaced(span.stop))


def times_of(span: Span) -> list[int]:
    """The times (ms since 1970) whose offsets `read_range` needs for the span."""
    return [ms_of(position, up=True) for position in span if isinstance(position, datetime)]


def read_range(span: Span, partition: PartitionDescription, offsets_at: Mapping[int, int]) -> ReadRange:
    """A span without COMMITTED as offsets. offsets_at: the offset for each of `times_of(span)`."""

    def offset_of(position: Position, most: int) -> int:
        if isinstance(position, Place):
            return partition.offset_of(position, most=most)
        return offsets_at[ms_of(position, up=True)] if isinstance(position, datetime) else position

    position = offset_of(span.start, partition.end_offset)
    return ReadRange(
        # The first record may be trimmed away before it is requested: START is then the one after it.
        first=EARLIEST if span.start == START else position,
        position=position,
        stop_offset=None if span.stop is None else offset_of(span.stop, INT64_MAX),
        partition=partition,
    )
