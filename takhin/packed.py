"""Records in the encoding of the interface, as the native library takes and gives them.

Whoever only hands them on never looks into them. Whoever wants the values asks for them like those of other
records, and gets them made then; `Later` is a sequence that waits for that.
(The encoding: protobuf.dev/programming-guides/encoding. The fields are those of takhin.proto.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar, overload

from takhin.model import Header, Records, Row
from takhin.native import Facts, Trait, library

T = TypeVar("T")

KEY, VALUE, HEADERS, TIMESTAMP, OFFSET = 1, 2, 3, 4, 5
"""Fields of a Record; a header has its key and its value under the same numbers."""


class Later(Sequence[T]):
    """A sequence of known length that is made when its first element is asked for."""

    def __init__(self, length: int, make: Callable[[], Sequence[T]]) -> None:
        self._length = length
        self._make = make

    def __len__(self) -> int:
        return self._length

    @cached_property
    def _made(self) -> Sequence[T]:
        return self._make()

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self._made[index]

    def __iter__(self) -> Iterator[T]:
        return iter(self._made)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as of a list


class LaterMapping(Mapping[int, T]):
    """A mapping that is made when something of it is asked for."""

    def __init__(self, make: Callable[[], Mapping[int, T]]) -> None:
        self._make = make

    @cached_property
    def _made(self) -> Mapping[int, T]:
        return self._make()

    def __getitem__(self, key: int) -> T:
        return self._made[key]

    def __iter__(self) -> Iterator[int]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


@dataclass(frozen=True, slots=True)
class Packed:
    """The records of a batch: plain ones, in a produce request.

    request: its bytes. facts: what the native library has found in them.
    now: the timestamp (ms) of records without one, or of `every` one.
    """

    request: bytes
    facts: Facts
    now: int = 0
    every: bool = False

    @property
    def part(self) -> range:
        """Where the records are in the request."""
        return range(self.facts.begin, self.facts.end)

    def find_keyless(self) -> int:
        """The position of the first record without a key. Raises ValueError if each has one.

        Nothing is unpacked for it, nor for what the next two find: a request may be large.
        """
        return library().find(self.request, self.part, Trait.KEYLESS)[0]

    def find_stamped(self, timestamp: int) -> int:
        """The position of the first record that came with this timestamp. Raises ValueError if none did."""
        return library().find(self.request, self.part, Trait.STAMPED, timestamp)[0]

    def find_larger(self, size_bytes: int) -> tuple[int, int]:
        """(the position of the first record of more bytes, its bytes). Raises ValueError if there is none."""
        return library().find(self.request, self.part, Trait.LARGER, size_bytes)

    def stamped(self, now: int, *, every: bool) -> Packed:
        """With the broker's clock (ms) where there is no timestamp, or everywhere."""
        return replace(self, now=now, every=every)

    @property
    def first_timestamp(self) -> int:
        return self.now if self.every else self.facts.first or self.now

    @property
    def last_timestamp(self) -> int:
        return self.now if self.every else self.facts.last or self.now

    @property
    def lowest_timestamp(self) -> int:
        if self.every:
            return self.now
        return min(self.facts.lowest, self.now) if self.facts.unstamped else self.facts.lowest

    @property
    def highest_timestamp(self) -> int:
        if self.every:
            return self.now
        return max(self.facts.highest, self.now) if self.facts.unstamped else self.facts.highest


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a read has found, as a consume response has it.

    wire: the bytes of its records. size_bytes: what they count for, as `sizes.response_bytes` says.
    first_offset: of the first one.
    """

    wire: bytes
    size_bytes: int
    first_offset: int


def encoded_records(encoded: Encoded, count: int, next_offset: int) -> Records:
    """The result of a read, of so many records."""
    values = Values(encoded.wire)
    return Records(
        Later(count, lambda: values.rows), LaterMapping(lambda: values.headers), next_offset, encoded
    )


class Values:
    """The rows and headers in some records of a response, made when they are asked for."""

    def __init__(self, wire: bytes) -> None:
        self._wire = wire

    @property
    def rows(self) -> Sequence[Row]:
        return self._made[0]

    @property
    def headers(self) -> Mapping[int, Sequence[Header]]:
        return self._made[1]

    @cached_property
    def _made(self) -> tuple[list[Row], dict[int, list[Header]]]:
        rows: list[Row] = []
        headers: dict[int, list[Header]] = {}
        for _, record in _fields(self._wire):
            found: dict[int, Any] = {}
            of_record: list[Header] = []
            for number, value in _fields(record):
                if number == HEADERS:
                    header = dict(_fields(value))
                    of_record.append(Header(header[KEY].decode(), header.get(VALUE, b"")))
                else:
                    found[number] = value
            rows.append((found[OFFSET], found[TIMESTAMP], found.get(KEY), found.get(VALUE)))
            if of_record:
                headers[found[OFFSET]] = of_record
        return rows, headers


def joined(pieces: Sequence[Records]) -> Records:
    """Reads that follow each other, as one."""
    if len(pieces) == 1:  # the very object, which others may share
        return pieces[0]
    next_offset = pieces[-1].next_offset
    encoded = [piece.encoded for piece in pieces if piece.encoded is not None]
    if len(encoded) == len(pieces):
        wire = b"".join(each.wire for each in encoded)
        whole = Encoded(wire, sum(each.size_bytes for each in encoded), encoded[0].first_offset)
        return encoded_records(whole, sum(len(piece.rows) for piece in pieces), next_offset)
    rows = [row for piece in pieces for row in piece.rows]
    headers = {offset: of_record for piece in pieces for offset, of_record in piece.headers.items()}
    return Records(rows, headers, next_offset)


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a message of ours: numbers and bytes are all that there is."""
    at = 0
    while at < len(content):
        tag = content[at]
        value, at = _varint(content, at + 1)
        if tag & 7:
            yield tag >> 3, content[at : at + value]
            at += value
        else:
            yield tag >> 3, value


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """The number there, and the place after it."""
    number = content[at]
    if number < 0x80:
        return number, at + 1
    number &= 0x7F
    shift = 7
    while (byte := content[at + (shift // 7)]) > 0x7F:
        number |= (byte & 0x7F) << shift
        shift += 7
    return number | byte << shift, at + shift // 7 + 1
