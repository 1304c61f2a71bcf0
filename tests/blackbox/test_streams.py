"""The two streams: what they deliver, in which order, when they end, and what they leave behind."""

from __future__ import annotations

import queue
import time

import grpc
import pytest

from blackbox.clients import (
    CALL_S_MAX,
    batch,
    connected,
    consume,
    create_topic,
    end_offset,
    next_records,
    own_topic,
    produce,
    read_all,
    refusal,
)
from takhin.v1 import takhin_pb2 as pb


@pytest.fixture
def stub(shared_broker):
    with connected(shared_broker.address) as stub:
        yield stub


@pytest.fixture
def topic(stub, request):
    """A topic for one test, named after the test."""
    return own_topic(stub, request.node.name)


def values(records):
    return [record.value for record in records]


def offsets(records):
    return [record.offset for record in records]


def numbered(first, count, size=8):
    return [b"%0*d" % (size, number) for number in range(first, first + count)]


def test_a_pipelined_produce_stream_keeps_its_order(stub, topic):
    """5,000 unawaited requests of one record get one response each, in order, with dense offsets."""
    sent = numbered(0, 5_000)
    requests = (pb.ProduceMessageRequest(topic=topic, record=pb.Record(value=value)) for value in sent)
    responses = list(stub.ProduceMessageStream(requests, timeout=60))
    assert [(r.offset, r.record_count, r.error) for r in responses] == [(n, 1, "") for n in range(5_000)]
    assert values(read_all(stub, topic)) == sent


def test_batches_on_a_stream_land_whole_and_in_order(stub, topic):
    """The offset in an answer is that of the batch's first record; the others have consecutive offsets."""
    sizes = [1, 1_000, 2, 500, 3]
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    requests = [batch(topic, numbered(first, n)) for first, n in zip(starts, sizes, strict=True)]
    responses = list(stub.ProduceMessageStream(iter(requests), timeout=CALL_S_MAX))
    assert [(r.offset, r.record_count) for r in responses] == list(zip(starts, sizes, strict=True))
    assert values(read_all(stub, topic)) == numbered(0, sum(sizes))


def test_a_produce_stream_answers_while_it_is_open(stub, topic):
    """A client that awaits each answer before its next request gets it while the stream is open."""
    requests = queue.SimpleQueue()
    call = stub.ProduceMessageStream(iter(requests.get, None), timeout=CALL_S_MAX)
    for number in range(20):
        requests.put(batch(topic, numbered(number, 1)))
        assert next(call).offset == number
    requests.put(None)
    assert list(call) == []
    assert call.code() == grpc.StatusCode.OK


def test_an_answer_without_durability_has_no_offset(stub, topic):
    """required_acks=0 is answered with offset -1, in order among the others, and the record is stored."""
    requests = [batch(topic, numbered(n, 1)) for n in range(3)]
    requests[1].required_acks = 0
    responses = list(stub.ProduceMessageStream(iter(requests), timeout=CALL_S_MAX))
    assert [(r.offset, r.error) for r in responses] == [(0, ""), (-1, ""), (2, "")]
    assert values(read_all(stub, topic)) == numbered(0, 3)


def test_a_tail_delivers_what_is_produced_later(stub, topic):
    """A tail from the latest offset sees only later records, each of them once."""
    produce(stub, topic, numbered(0, 10))
    tail = consume(stub, topic, offset=-2)
    assert (list((first := next(tail)).records), first.high_watermark) == ([], 10)
    seen = []
    for number in range(10, 30):
        produce(stub, topic, numbered(number, 1))
        response = next_records(tail)
        seen += response.records
        assert response.high_watermark == number + 1
    assert (offsets(seen), values(seen)) == (list(range(10, 30)), numbered(10, 20))
    assert {record.partition for record in seen} == {0}
    tail.cancel()


def test_min_bytes_are_awaited(stub, topic):
    """A response waits for min_bytes, however many small produce calls that takes."""
    tail = consume(stub, topic, min_bytes=10_000, max_wait_ms=20_000)
    assert not next(tail).records
    for number in range(120):
        produce(stub, topic, numbered(number, 1, size=100))
    response = next_records(tail)
    assert sum(len(record.value) for record in response.records) + 32 * len(response.records) >= 10_000
    assert offsets(response.records) == list(range(len(response.records)))
    tail.cancel()


def test_min_bytes_are_awaited_no_longer_than_max_wait(stub, topic):
    """After max_wait_ms a response is sent with what there is."""
    produce(stub, topic, numbered(0, 3))
    started = time.monotonic()
    tail = consume(stub, topic, min_bytes=1 << 20, max_wait_ms=500)
    assert values(next_records(tail).records) == numbered(0, 3)
    assert 0.45 <= time.monotonic() - started < 5
    tail.cancel()


@pytest.mark.parametrize(("size", "max_bytes"), [(10, 500), (1_000, 5_000), (1_000, 1), (200_000, 1 << 20)])
def test_a_response_has_at_most_max_bytes(stub, topic, size, max_bytes):
    """Responses stay within max_bytes but have at least one record, and no record is missing."""
    produce(stub, topic, numbered(0, 40, size))
    responses = list(consume(stub, topic, max_bytes=max_bytes, stop_at_end=True))
    assert values(r for response in responses for r in response.records) == numbered(0, 40, size)
    for response in responses:
        assert response.ByteSize() <= max_bytes or len(response.records) == 1
    assert len(responses) > 1


def test_a_response_never_exceeds_the_message_limit(stub, topic):
    """A client that asks for responses of 2 GB gets messages that gRPC can carry."""
    for first in range(0, 60, 6):
        produce(stub, topic, numbered(first, 6, 1_000_000))
    responses = list(consume(stub, topic, max_bytes=2**31 - 1, stop_at_end=True))
    assert offsets(r for response in responses for r in response.records) == list(range(60))
    assert max(response.ByteSize() for response in responses) <= 10 << 20


BOUNDS = {
    "stop-at-end": ({"stop_at_end": True}, range(10)),
    "stop-at-end-of-the-end": ({"offset": -2, "stop_at_end": True}, range(0)),
    "stop-offset": ({"stop_offset": 7}, range(7)),
    "stop-offset-at-start": ({"offset": 4, "stop_offset": 4}, range(0)),
    "stop-offset-behind": ({"offset": 4, "stop_offset": 2}, range(0)),
    "stop-offset-zero": ({"stop_offset": 0}, range(0)),
    "max-records": ({"max_records": 3}, range(3)),
    "max-records-small-responses": ({"max_records": 5, "max_bytes": 1}, range(5)),
    "from-offset": ({"offset": 6, "stop_at_end": True}, range(6, 10)),
    "from-time": ({"start_timestamp": 4_000, "stop_at_end": True}, range(3, 10)),
    "from-between-times": ({"start_timestamp": 4_001, "stop_at_end": True}, range(4, 10)),
    "from-1970": ({"start_timestamp": 0, "stop_at_end": True}, range(10)),
    "from-after-all": ({"start_timestamp": 10_001, "stop_at_end": True}, range(0)),
    "time-wins-over-offset": ({"start_timestamp": 9_000, "offset": 2, "stop_at_end": True}, range(8, 10)),
    "several": ({"offset": 2, "stop_offset": 8, "max_records": 4, "stop_at_end": True}, range(2, 6)),
}


@pytest.mark.parametrize(("fields", "expected"), BOUNDS.values(), ids=BOUNDS)
def test_a_bound_ends_the_stream(stub, topic, fields, expected):
    """A bounded call delivers its range and then ends with OK."""
    stamped = [pb.Record(value=b"%d" % n, timestamp=(n + 1) * 1_000) for n in range(10)]
    request = pb.ProduceMessageRequest(topic=topic, records=stamped)
    assert stub.ProduceMessage(request, timeout=CALL_S_MAX).error == ""
    call = consume(stub, topic, **fields)
    records = [record for response in call for record in response.records]
    assert offsets(records) == list(expected)
    assert [record.timestamp for record in records] == [(n + 1) * 1_000 for n in expected]
    assert call.code() == grpc.StatusCode.OK


def test_a_stop_offset_ahead_is_waited_for(stub, topic):
    """A stream with stop_offset past the end tails, and ends when the log has reached it."""
    produce(stub, topic, numbered(0, 2))
    call = consume(stub, topic, stop_offset=4)
    assert offsets(next_records(call).records) == [0, 1]
    produce(stub, topic, numbered(2, 5))
    assert offsets(r for response in call for r in response.records) == [2, 3]
    assert call.code() == grpc.StatusCode.OK


def test_a_quiet_stream_says_that_it_is_alive(stub, topic):
    """An idle stream keeps sending empty responses with the high watermark."""
    produce(stub, topic, numbered(0, 4))
    tail = consume(stub, topic, offset=4)
    for _ in range(5):
        response = next(tail)
        assert (list(response.records), response.high_watermark) == ([], 4)
        assert (response.topic, response.partition) == (topic, 0)
    tail.cancel()


def test_an_offset_outside_the_log_names_both_ends(stub, topic):
    """OUT_OF_RANGE names the start and end of the log; the end itself is a valid offset."""
    produce(stub, topic, numbered(0, 5))
    with pytest.raises(grpc.RpcError) as caught:
        next(consume(stub, topic, offset=6))
    refused = refusal(caught.value)
    assert (refused.code, refused.reason) == (grpc.StatusCode.OUT_OF_RANGE, "OFFSET_OUT_OF_RANGE")
    assert (refused.details["beginning_offset"], refused.details["end_offset"]) == ("0", "5")
    assert list(consume(stub, topic, offset=5, stop_at_end=True)) == []


def test_deleting_a_topic_ends_its_tails(stub, topic):
    """Tails of a deleted topic end with NOT_FOUND, and a new topic with that name starts empty."""
    other_topic = f"{topic}-other"
    other = consume(stub, create_topic(stub, other_topic))
    tails = [consume(stub, topic) for _ in range(3)]
    for tail in [*tails, other]:
        next(tail)
    produce(stub, topic, numbered(0, 3))
    assert stub.DeleteTopic(pb.DeleteTopicRequest(name=topic), timeout=CALL_S_MAX).success
    create_topic(stub, topic)
    for tail in tails:
        with pytest.raises(grpc.RpcError) as caught:
            list(tail)
        refused = refusal(caught.value)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_TOPIC")
    assert end_offset(stub, topic) == 0
    produce(stub, other_topic, [b"goes on"])
    assert values(next_records(other).records) == [b"goes on"]
    other.cancel()


def test_a_produce_stream_outlives_its_topic(stub, topic):
    """Deleting the topic of a produce stream refuses the next requests without ending the stream."""
    requests = queue.SimpleQueue()
    call = stub.ProduceMessageStream(iter(requests.get, None), timeout=CALL_S_MAX)
    requests.put(batch(topic, [b"before"]))
    assert next(call).error == ""
    assert stub.DeleteTopic(pb.DeleteTopicRequest(name=topic), timeout=CALL_S_MAX).success
    requests.put(batch(topic, [b"between"]))
    assert next(call).error_code == pb.ERROR_CODE_UNKNOWN_TOPIC
    create_topic(stub, topic)
    requests.put(batch(topic, [b"after"]))
    assert (response := next(call)).offset == 0, response.error
    requests.put(None)
    assert list(call) == []


def test_consumers_of_different_appetite_see_the_same_log(shared_broker, stub, topic):
    """Consumers on several connections, with different response sizes, agree on every record."""
    produce(stub, topic, numbered(0, 3_000))
    with connected(shared_broker.address) as other:
        whole = read_all(stub, topic)
        in_pieces = consume(other, topic, max_bytes=700, stop_at_end=True)
        assert [record for response in in_pieces for record in response.records] == whole
    assert offsets(whole) == list(range(3_000))
