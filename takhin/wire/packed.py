"""Produce requests whose records stay packed: the native library stores them as they came.

One rule says which do: `PlainRequests`. All others are parsed by the generated code, as all are where there
is no native library. tests/native holds both against each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from google.protobuf.message import DecodeError

from takhin.model import CHOOSE_PARTITION, Batch, Condition, Header
from takhin.native import ZEROS_MAX, Facts, Library, Limits
from takhin.packed import Later, LaterMapping, Packed
from takhin.settings import ProduceSettings
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.columns import headers_of, key_of, value_of
from takhin.wire.crowd import SMALL_BYTES, SPARE

RECORDS_MIN = 10
"""Fewer records take longer in a statement of their own than with those of other requests. A commit
group may have thousands of such requests."""
RECORD_BYTES_MAX = 1 << 20
"""A larger record with headers is left to Python, which stores them in more than one turn of the loop."""


@dataclass(frozen=True, slots=True)
class PackedRequest:
    """A ProduceMessageRequest. head: all of it but the records, which are in `wire` as `facts` says."""

    head: pb.ProduceMessageRequest
    wire: bytes
    facts: Facts

    @property
    def topic(self) -> str:
        return self.head.topic

    @property
    def partition(self) -> int:
        return self.head.partition

    @property
    def source(self) -> pb.SourceOffset:
        return self.head.source

    def HasField(self, name: str) -> bool:  # noqa: N802  as of the message that it stands for
        """As of the message that it stands for."""
        return self.head.HasField(name)  # type: ignore[arg-type]

    @property
    def stays(self) -> bool:
        """False if somebody needs the records: to choose a partition by keys, or to see what is wrong."""
        head, facts = self.head, self.facts
        if head.HasField("record") or head.records or head.compression:
            return False
        return head.partition != CHOOSE_PARTITION or facts.keyless == facts.records

    def within(self, head: pb.ProduceMessageRequest) -> PackedRequest | None:
        """The request with these records and the rest of another. None if this one is more than records."""
        whole = PackedRequest(head, self.wire, self.facts)
        return None if self.head.ListFields() or not whole.stays else whole


class PlainRequests:
    """Finds out which requests are plain.

    A request is if its records are in one piece and in the ordinary form, as every generated encoder writes
    them; if it is within the limits of a batch, and the rest of it is small; if none ends in very many zeros;
    and if nobody needs its records but the engine: see `stays`.
    """

    def __init__(self, native: Library, settings: ProduceSettings, *, records_min: int = 1) -> None:
        """records_min: fewer are left to Python, unless they are large."""
        self._records_min = records_min
        self._scan = native.scan
        self._limits = Limits(
            settings.batch_records_max,
            settings.batch_headers_max,
            settings.record_headers_max,
            settings.header_bytes_max,
            ZEROS_MAX,
            SMALL_BYTES,
            SPARE,
        )

    def __call__(self, wire: bytes) -> PackedRequest | None:
        """The request if it is plain."""
        facts = self._scan(wire, self._limits)
        if facts is None or not self._is_worth_it(facts):
            return None
        try:
            head = pb.ProduceMessageRequest.FromString(wire[: facts.begin] + wire[facts.end :])
        except DecodeError:
            return None
        request = PackedRequest(head, wire, facts)
        return request if request.stays else None

    def _is_worth_it(self, facts: Facts) -> bool:
        if facts.headers and facts.record_bytes_max > RECORD_BYTES_MAX:
            return False
        return facts.records >= self._records_min or facts.end - facts.begin > SMALL_BYTES


def count_records(request: pb.ProduceMessageRequest | PackedRequest) -> int:
    """How many records a request brings, as a quota counts them."""
    if isinstance(request, PackedRequest):
        return request.facts.records
    return len(request.records) or 1


def packed_batch(request: PackedRequest, condition: Condition | None) -> Batch:
    """The records of the request. Their columns are made when somebody asks for them."""
    columns, facts = _Columns(request), request.facts
    count = facts.records
    return Batch(
        Later(count, lambda: columns.keys),
        Later(count, lambda: columns.values),
        Later(count, lambda: columns.timestamps),
        LaterMapping(lambda: columns.headers) if facts.headers else {},
        len(request.wire),
        condition,
        Packed(request.wire, facts),
    )


class _Columns:
    """The columns of a request's records, each made when it is asked for."""

    def __init__(self, request: PackedRequest) -> None:
        self._wire = request.wire
        self._facts = request.facts

    @cached_property
    def _records(self) -> Any:
        facts = self._facts
        return pb.ProduceMessageRequest.FromString(self._wire[facts.begin : facts.end]).records

    @property
    def keys(self) -> list[bytes | None]:
        if self._facts.keyless == self._facts.records:
            return [None] * self._facts.records
        return [key_of(record) for record in self._records]

    @property
    def values(self) -> list[bytes | None]:
        return [value_of(record) for record in self._records]

    @property
    def timestamps(self) -> list[int]:
        return [record.timestamp for record in self._records]

    @property
    def headers(self) -> dict[int, list[Header]]:
        return {i: headers_of(record) for i, record in enumerate(self._records) if record.headers}
