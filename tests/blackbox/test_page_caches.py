"""The page caches of all open files share one budget."""

from __future__ import annotations

from blackbox.broker_process import Broker, resident_bytes
from blackbox.clients import connected, create_topic, produce, read_all
from takhin.v1 import takhin_pb2 as pb

PARTITIONS = 60
BATCHES = [[bytes(1_000)] * 1_000] * 3
BUDGET_BYTES = 16 << 20
GROWTH_BYTES_MAX = 100 << 20
"""The budget, a response's and a request's memory, and what malloc keeps. It is 260 MB without a budget."""


def test_many_busy_partitions_take_bounded_memory(data_dir, figures):
    """60 partitions that are written and read in turn take little more than the budget of their caches."""
    with (
        Broker(data_dir, storage_page_cache_bytes_max=BUDGET_BYTES) as broker,
        connected(broker.address) as stub,
    ):
        create_topic(stub, "t", PARTITIONS)
        produce(stub, "t", BATCHES[0])
        before = resident_bytes(broker)
        for values in BATCHES:
            for partition in range(PARTITIONS):
                produce(stub, "t", values, partition=partition)
        for partition in range(PARTITIONS):
            read_all(stub, "t", partition)
        grown = resident_bytes(broker) - before
        figures(f"{PARTITIONS} partitions written and read: {grown >> 20} MiB more")
        assert grown <= GROWTH_BYTES_MAX
        stub.DeleteTopic(pb.DeleteTopicRequest(name="t"), timeout=60)  # else all is verified
