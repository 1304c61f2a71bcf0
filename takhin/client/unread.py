"""The records of one response that were not handed out yet, one by one or together.

A record is made when it is handed out: thousands that wait would be looked at again and again by Python's
garbage collector, which takes longer than all else that is done to read them.

Ordinary responses are read in C, if there is the compiled part (native/client/unread.c, which has the same
attributes); this is for all others, with headers, for instance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from operator import length_hint
from typing import Protocol

from takhin.client import compiled
from takhin.client.model import Record
from takhin.client.record_batch import RecordColumns, records_of
from takhin.model import Header, TopicPartition
from takhin.wire.columns import ResponseColumns


class Unread(Protocol):
    """What is left of a response. True while something is.

    size_bytes: of the response. end_offset: of the log, as it was then. headers: by position in the response.
    after: the position when nothing is left.
    records: what is left, one by one. To take one out is a single step, whatever another thread does.
    """

    @property
    def size_bytes(self) -> int: ...
    @property
    def end_offset(self) -> int: ...
    @property
    def headers(self) -> Mapping[int, Sequence[Header]]: ...
    @property
    def after(self) -> int: ...
    @property
    def records(self) -> Iterator[Record]: ...

    def __len__(self) -> int: ...

    @property
    def position(self) -> int:
        """The offset of the next record, or the one after the last."""

    def take(self, records_max: int | None) -> RecordColumns:
        """So many of them at once, or all."""

    def clear(self) -> None:
        """Leave nothing. The position stays."""


def ordinary(at: TopicPartition, wire: bytes, end_offset: int | None = None) -> Unread | None:
    """The records of an ordinary response; None for any other, and where there is no compiled part.

    wire: its bytes. end_offset: None: as it says.
    """
    if compiled.unread is None:
        return None
    found: Unread | None = compiled.unread(at, wire, end_offset)
    return found


def nothing(at: TopicPartition, position: int) -> Unread:
    """No records, at a position."""
    found = UnreadColumns(at, ResponseColumns(b""), 0)
    found.after = position
    return found


class UnreadColumns:
    """`Unread` over columns.

    Each column has one iterator, which `records` and `take` share, so that they may take turns. What that of
    the offsets has given is handed out.
    """

    __slots__ = (
        *("_at", "_columns", "_left", "_offsets", "_whole"),
        *("after", "end_offset", "headers", "records", "size_bytes"),
    )

    def __init__(self, at: TopicPartition, columns: ResponseColumns, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.end_offset = columns.end_offset
        self.headers: Mapping[int, Sequence[Header]] = columns.headers
        self.after = columns.offsets[-1] + 1 if columns.offsets else 0
        self._at = at
        self._offsets = columns.offsets
        self._left = iter(columns.offsets)
        headers = _of_each(columns.headers, len(columns.offsets))
        self._whole = columns.timestamps, columns.keys, columns.values, headers
        self._columns = iter(columns.timestamps), iter(columns.keys), iter(columns.values), iter(headers)
        self.records = records_of(at, (self._left, *self._columns))

    def __len__(self) -> int:
        return length_hint(self._left)

    @property
    def position(self) -> int:
        left = length_hint(self._left)
        return self._offsets[-left] if left else self.after

    def take(self, records_max: int | None) -> RecordColumns:
        offsets = list(islice(self._left, records_max))
        count = len(offsets)
        if count == len(self._offsets):  # the usual case needs no copies
            return RecordColumns(self._at, offsets, *self._whole)
        timestamps, keys, values, headers = self._columns
        return RecordColumns(
            self._at,
            offsets,
            list(islice(timestamps, count)),
            list(islice(keys, count)),
            list(islice(values, count)),
            list(islice(headers, count)),
        )

    def clear(self) -> None:
        if left := list(self._left):
            self.after = left[0]


def _of_each(headers: Mapping[int, Sequence[Header]], count: int) -> Sequence[Sequence[Header]]:
    """The headers of each of so many records. headers: by position, of those that have some."""
    return [headers.get(position, ()) for position in range(count)] if headers else [()] * count
