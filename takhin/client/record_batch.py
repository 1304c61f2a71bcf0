"""Records that are handed out together, as columns: a record is made where somebody looks at it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple, overload

from takhin.client.model import Record
from takhin.model import Header, TopicPartition

Columns = tuple[
    Iterable[int], Iterable[int], Iterable[bytes | None], Iterable[bytes | None], Iterable[Sequence[Header]]
]
"""Offsets, timestamps, keys, values, and the headers of each record."""


def records_of(at: TopicPartition, columns: Columns) -> Iterator[Record]:
    """The records of these columns. It ends where the offsets end. No Python code runs for each record."""
    fields = zip(repeat(at.topic), repeat(at.partition), *columns, strict=False)
    return map(tuple.__new__, repeat(Record), fields)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class RecordColumns(Sequence[Record]):
    """Records of one partition. Each is made when somebody looks at it. Equal to a list of equal records."""

    at: TopicPartition
    offsets: Sequence[int]
    timestamps: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Sequence[Header]]

    def __len__(self) -> int:
        return len(self.offsets)

    def __iter__(self) -> Iterator[Record]:
        columns = self.offsets, self.timestamps, self.keys, self.values, self.headers
        return records_of(self.at, columns)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        if isinstance(index, slice):
            return RecordColumns(
                self.at,
                self.offsets[index],
                self.timestamps[index],
                self.keys[index],
                self.values[index],
                self.headers[index],
            )
        return Record(
            *self.at,
            self.offsets[index],
            self.timestamps[index],
            self.keys[index],
            self.values[index],
            self.headers[index],
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list | RecordColumns) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


class RecordBatch(NamedTuple):
    """Records of one partition in offset order, at least one.

    records: each is made when it is looked at. `values`, `keys`, `offsets` and `timestamps` of all of them
    are there without that.
    end_offset: where the log ended when they were read; it shows how far behind the reader is.
    """

    topic: str
    partition: int
    records: Sequence[Record]
    end_offset: int

    @property
    def values(self) -> Sequence[bytes | None]:
        """The value of each record."""
        return self._columns.values

    @property
    def keys(self) -> Sequence[bytes | None]:
        """The key of each record."""
        return self._columns.keys

    @property
    def offsets(self) -> Sequence[int]:
        """The offset of each record."""
        return self._columns.offsets

    @property
    def timestamps(self) -> Sequence[int]:
        """The timestamp of each record."""
        return self._columns.timestamps

    @property
    def _columns(self) -> RecordColumns:
        records = self.records
        if isinstance(records, RecordColumns):
            return records
        return RecordColumns(
            TopicPartition(self.topic, self.partition),
            [record.offset for record in records],
            [record.timestamp for record in records],
            [record.key for record in records],
            [record.value for record in records],
            [record.headers for record in records],
        )
