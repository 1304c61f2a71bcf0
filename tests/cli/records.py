"""Records that the tests of the commands need, produced directly through gRPC."""

from __future__ import annotations

from blackbox.clients import connected
from takhin.v1 import takhin_pb2 as pb


def put(broker, topic, *records: pb.Record, partition: int = 0) -> None:
    """Produce any records, even ones that no line of text can express."""
    with connected(broker.address) as stub:
        request = pb.ProduceMessageRequest(topic=topic, partition=partition, records=records)
        assert stub.ProduceMessage(request, timeout=10).error == ""


def without_waits(said: bytes) -> list[str]:
    """The lines of stderr but those about a wait, which depend on how long a broker takes to start."""
    return [line for line in said.decode().splitlines() if not line.startswith("takhin: still waiting: ")]


def fill(broker, topic, count: int) -> None:
    """Produce this many records of 99 bytes."""
    records = [pb.Record(value=b"x" * 99)] * 5_000
    for left in range(count, 0, -5_000):
        put(broker, topic, *records[:left])
