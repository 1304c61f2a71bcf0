"""A principal that tries all ways around its quota: connections, addresses, streams, compression."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain

import grpc
import pytest

from access.support import EVERYTHING, Keeper, bearer
from blackbox.broker_process import Broker
from blackbox.clients import CALL_S_MAX, batch, connected
from hostile.relay import Relay
from hostile.test_quotas import ENOUGH_S, over_quota
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.compression import zstd

QUOTA = 500_000
VALUE_BYTES, PER_BATCH = 5_000, 4
ADDRESSES = ("127.0.0.2", "127.0.0.3")
OTHERS_SHARE = 0.8
"""What the other principal sends, as a part of its own quota."""


def plain(topic: str) -> pb.ProduceMessageRequest:
    return batch(topic, [bytes(VALUE_BYTES)] * PER_BATCH)


def packed(topic: str) -> pb.ProduceMessageRequest:
    """The same records, which take a hundredth of the bytes on their way."""
    records = pb.ProduceMessageRequest(records=plain(topic).records).SerializeToString()
    return pb.ProduceMessageRequest(
        topic=topic, compression=pb.COMPRESSION_ZSTD, compressed_records=zstd().compress(records)
    )


def by_calls(stub, token, request, until):
    """Produce with calls of their own; returns how many were taken."""
    taken = 0
    while time.monotonic() < until:
        try:
            assert not stub.ProduceMessage(request, timeout=CALL_S_MAX, metadata=bearer(token)).error
            taken += 1
        except grpc.RpcError as error:
            over_quota(error, "produced_bytes_per_s")
    return taken


def by_new_streams(stub, token, request, until):
    """Produce on streams of a few requests each, as fast as one may."""
    taken = 0
    while time.monotonic() < until:
        call = stub.ProduceMessageStream(in_time(request, until), metadata=bearer(token), timeout=60)
        answers = list(call)
        assert not any(answer.error for answer in answers)
        taken += len(answers)
    return taken


def in_time(request: pb.ProduceMessageRequest, until: float) -> Iterator[pb.ProduceMessageRequest]:
    for _ in range(3):
        if time.monotonic() < until:
            yield request


def at_own_rate(stub, token, until):
    """Produce below the quota; returns how many requests were taken."""
    taken, begin, request = 0, time.monotonic(), plain("other")
    while (now := time.monotonic()) < until:
        if taken * VALUE_BYTES * PER_BATCH > OTHERS_SHARE * QUOTA * (now - begin):
            time.sleep(0.005)
            continue
        assert not stub.ProduceMessage(request, timeout=CALL_S_MAX, metadata=bearer(token)).error
        taken += 1
    return taken


WAYS: tuple[Callable[..., int], ...] = (by_calls, by_new_streams)


@pytest.mark.timed
@pytest.mark.parametrize("seconds", [2.0, pytest.param(30.0, marks=pytest.mark.soak)])
def test_a_principal_is_held_to_its_quota_and_another_keeps_its_rate(data_dir, figures, seconds):
    """Within 10 % of it, but for a burst, by whatever ways it comes; the other does not notice."""
    data_dir.mkdir()
    keeper = Keeper(data_dir)
    tokens = {name: keeper.token(name) for name in ("greedy", "other")}
    for name in tokens:
        keeper.rules(*EVERYTHING, principal=name)
    settings = {"access_enabled": "true", "quotas_principal_produced_bytes_per_s": QUOTA}
    with Broker(data_dir, **settings) as broker, ExitStack() as stack:
        relays = [stack.enter_context(Relay(broker.address, address)).address for address in ADDRESSES]
        stub = stack.enter_context(connected(broker.address))
        for topic in tokens:
            created = pb.CreateTopicRequest(name=topic)
            assert stub.CreateTopic(created, metadata=bearer(tokens["greedy"])).success
        ways = [(way, request("greedy")) for way in WAYS for request in (plain, packed)]
        threads = stack.enter_context(ThreadPoolExecutor(1 + len(ways) * 3))
        begin = time.monotonic()
        until = begin + seconds
        free = threads.submit(at_own_rate, stub, tokens["other"], until)
        held = [
            threads.submit(way, stack.enter_context(connected(address)), tokens["greedy"], request, until)
            for address in chain([broker.address], relays)
            for way, request in ways
        ]
        request_bytes = VALUE_BYTES * PER_BATCH
        taken_bytes = sum(each.result() for each in held) * request_bytes
        share = taken_bytes / (QUOTA * (time.monotonic() - begin))  # streams wait for their last answers
        other_share = free.result() * request_bytes / (OTHERS_SHARE * QUOTA * seconds)
    figures(
        f"{len(held)} connections from 3 addresses, {seconds:.0f} s: {share:.3f} of the principal's quota; "
        f"{other_share:.3f} of the other's rate"
    )
    assert (0.9 if seconds > ENOUGH_S else 0.7) <= share <= 1 + max(0.1, 1.5 / seconds)
    assert other_share >= (0.95 if seconds > ENOUGH_S else 0.7)
