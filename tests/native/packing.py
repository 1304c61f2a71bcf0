"""Batches as the broker makes them of requests that the native library takes."""

from __future__ import annotations

from takhin import native
from takhin.model import Batch
from takhin.settings import ProduceSettings
from takhin.testing.contract import NOW, batch
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.packed import PlainRequests, packed_batch

BUILT = not isinstance(native.found(), Exception)


def packed(*values: bytes | None, headers: int = 0) -> Batch:
    """A batch of these values, each with so many headers."""
    of_each = [pb.RecordHeader(key="h", value=b"v" * 50)] * headers
    records = [pb.Record(value=value, timestamp=NOW, headers=of_each) for value in values]
    wire = pb.ProduceMessageRequest(topic="t", records=records).SerializeToString()
    request = PlainRequests(native.library(), ProduceSettings())(wire)
    assert request is not None
    return packed_batch(request, None)


def as_it_came(*values: bytes | None) -> Batch:
    """A batch of these values, packed where the library was built and there is more than one."""
    return packed(*values) if BUILT and len(values) > 1 else batch(*values)
