"""Repeated batches and appends that expect an end offset: over the wire, and across SIGKILL."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest

from blackbox.broker_process import Broker
from blackbox.clients import (
    CALL_S_MAX,
    CHANNEL_OPTIONS,
    batch,
    connected,
    create_topic,
    end_offset,
    error_name,
    own_topic,
    produce,
    read_all,
)
from blackbox.load import Journal
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

PRODUCER = bytes(range(16))


@pytest.fixture
def stub(shared_broker):
    with connected(shared_broker.address) as stub:
        yield stub


@pytest.fixture
def topic(stub, request):
    """A topic for one test, named after the test."""
    return own_topic(stub, request.node.name, 2)


def under(request, producer_id=b"", sequence=0, **fields):
    """The request with a condition. fields: expected_offset."""
    request.MergeFrom(pb.ProduceMessageRequest(producer_id=producer_id, sequence=sequence, **fields))
    return request


def answers(stub, kind, requests):
    """The responses to requests that are sent one after the other, or all at once on a stream."""
    if kind == "stream":
        return list(stub.ProduceMessageStream(iter(requests), timeout=CALL_S_MAX))
    return [stub.ProduceMessage(request, timeout=CALL_S_MAX) for request in requests]


KINDS = pytest.mark.parametrize("kind", ["unary", "stream"])


@KINDS
def test_a_repeat_is_answered_as_the_first_time(stub, topic, kind):
    """A repeat gets the first offset, timestamp and count, marked as a duplicate; nothing is stored."""
    produce(stub, topic, [b"before"], partition=1)
    requests = [
        under(batch(topic, [b"a", b"b"], partition=1), PRODUCER),
        under(batch(topic, [b"c"], partition=1), PRODUCER, 2),
    ]
    first, second, *again = answers(stub, kind, requests * 3)
    assert [(r.error, r.offset, r.record_count, r.duplicate) for r in (first, second)] == [
        *(("", 1, 2, False), ("", 3, 1, False)),
    ]
    for response in (first, second):
        response.duplicate = True
    assert again == [first, second] * 2
    assert first.timestamp > 0
    assert [record.value for record in read_all(stub, topic, 1)] == [b"before", b"a", b"b", b"c"]


@KINDS
def test_one_record_under_a_condition(stub, topic, kind):
    """A single `record` is treated as a batch of one under a condition, too."""
    one = pb.ProduceMessageRequest(topic=topic, record=pb.Record(value=b"v"))
    first, again = answers(stub, kind, [under(one, PRODUCER, expected_offset=0)] * 2)
    assert [(r.error, r.offset, r.duplicate, r.end_offset) for r in (first, again)] == [
        *(("", 0, False, 0), ("", 0, True, 0)),
    ]


@KINDS
def test_out_of_sequence(stub, topic, kind):
    """A sequence gap has its own code, offset -1 and a reason; the stream and the producer go on."""
    unknown, first, other, gap, after = answers(
        stub,
        kind,
        [
            under(batch(topic, [b"a"]), PRODUCER, 1),
            under(batch(topic, [b"a", b"b"]), PRODUCER),
            under(batch(topic, [b"a"]), PRODUCER),
            under(batch(topic, [b"c"]), PRODUCER, 4),
            under(batch(topic, [b"c"]), PRODUCER, 2),
        ],
    )
    for refused, why in (
        (unknown, "knows nothing of this producer"),
        (other, "none of its batches"),
        (gap, "there is a gap: the producer's next record is 2"),
    ):
        assert error_name(refused) == "OUT_OF_SEQUENCE"
        assert why in refused.error
        assert (refused.topic, refused.partition, refused.offset, refused.end_offset) == (topic, 0, -1, 0)
    assert [(r.error, r.offset) for r in (first, after)] == [("", 0), ("", 2)]


@KINDS
def test_an_expected_offset(stub, topic, kind):
    """An append with the right expected offset is stored; a wrong one gets the current end and can retry."""
    requests = [
        under(batch(topic, [b"a", b"b"]), expected_offset=0),
        under(batch(topic, [b"c"]), expected_offset=0),
        under(batch(topic, [b"c"]), expected_offset=2),
    ]
    first, refused, last = answers(stub, kind, requests)
    assert [(r.error, r.offset) for r in (first, last)] == [("", 0), ("", 2)]
    assert error_name(refused) == "END_OFFSET_MISMATCH"
    assert (refused.offset, refused.end_offset, refused.duplicate) == (-1, 2, False)
    assert end_offset(stub, topic) == 3


PARTITIONS = 2
SENDERS = 16
BATCH_MAX = 5


class Sender:
    """Sends batches to one partition, one after the other. Its values are its name and numbers from 0."""

    def __init__(self, number: int, chance: random.Random, *, idempotent: bool) -> None:
        self._chance = chance
        self.name = b"%d " % number
        self.duplicates = 0
        self.sent = 0
        self._partition = number % PARTITIONS
        self._condition = {"producer_id": chance.randbytes(16)} if idempotent else {}
        self._under_way: list[bytes] = []

    async def send(self, stub) -> None:
        """Send until the broker is gone; the next time begins with the first batch without an answer."""
        while True:
            if not self._under_way:
                count = self._chance.randint(1, BATCH_MAX)
                self._under_way = [self.name + b"%d" % (self.sent + n) for n in range(count)]
            request = batch("t", self._under_way, partition=self._partition)
            if self._condition:
                under(request, **self._condition, sequence=self.sent)
            try:
                response = await stub.ProduceMessage(request)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                return
            assert response.error == ""
            self.duplicates += response.duplicate
            self.sent += len(self._under_way)
            self._under_way = []


async def send_and_kill(data_dir, senders, seconds) -> None:
    """Run all senders until the broker is killed while they are sending."""
    with Broker(data_dir) as broker:
        async with grpc.aio.insecure_channel(broker.address, options=CHANNEL_OPTIONS) as channel:
            stub = TakhinServiceStub(channel)
            sending = [asyncio.create_task(sender.send(stub)) for sender in senders]
            await asyncio.sleep(seconds)
            broker.kill()
            await asyncio.gather(*sending)


async def rounds_of(data_dir, count, *, idempotent) -> tuple[list[Sender], list[bytes]]:
    """The senders after so many rounds, and all values that are stored by then, in order."""
    chance = random.Random(Journal.new().seed)
    senders = [Sender(number, chance, idempotent=idempotent) for number in range(SENDERS)]
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        create_topic(stub, "t", PARTITIONS)
    for _ in range(count):
        await send_and_kill(data_dir, senders, chance.uniform(0.05, 0.3))
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        values = [record.value for n in range(PARTITIONS) for record in read_all(stub, "t", n)]
    return senders, values


@pytest.mark.timeout(300)
@pytest.mark.parametrize("rounds", [6, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
async def test_what_is_sent_again_after_sigkill_is_stored_once(data_dir, rounds, figures):
    """Each sender repeats what was not answered: its records are stored once, in order, without a gap."""
    senders, values = await rounds_of(data_dir, rounds, idempotent=True)
    for sender in senders:
        found = [value for value in values if value.startswith(sender.name)]
        assert found[: sender.sent] == [sender.name + b"%d" % n for n in range(sender.sent)]
        assert len(found) - sender.sent <= BATCH_MAX  # the batch that is still under way
    duplicates = sum(sender.duplicates for sender in senders)
    assert duplicates
    figures(f"SIGKILL, sent again: {rounds} rounds, {len(values)} stored once, {duplicates} had been stored")


@pytest.mark.control
async def test_without_a_producer_id_it_is_stored_twice(data_dir):
    """Control: without a producer id the same senders store records twice."""
    _, values = await rounds_of(data_dir, 6, idempotent=False)
    assert len(set(values)) < len(values)
