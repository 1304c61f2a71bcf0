"""The end of a broker: what a signal lets finish, what it ends, and what is left on the disk."""

from __future__ import annotations

import asyncio
import queue
import random
import threading
import time
from signal import SIGINT, SIGTERM

import grpc
import pytest
from grpc_health.v1 import health_pb2 as health
from grpc_health.v1.health_pb2_grpc import HealthStub

from blackbox.broker_process import Broker
from blackbox.clients import (
    CALL_S_MAX,
    CHANNEL_OPTIONS,
    Refusal,
    batch,
    connected,
    consume,
    create_topic,
    end_offset,
    eventually,
    produce,
    read_all,
    refusal,
)
from blackbox.foreign_lock import ForeignLock
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

GRACE_MS = 3_000
CALLERS = 500
SHUTTING_DOWN = (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "takhin")


class StreamProducer:
    """A produce stream that sends numbered batches until it ends, with 50 of them unanswered."""

    def __init__(self, stub, topic, *, first):
        self.acked: dict[int, bytes] = {}  # values by offset
        self.many = threading.Event()
        self.error: grpc.RpcError | None = None
        self._sent: queue.SimpleQueue = queue.SimpleQueue()
        self._room = threading.Semaphore(50)
        self._over = threading.Event()
        self._call = stub.ProduceMessageStream(self._requests(topic, first), timeout=60)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def join(self):
        self._thread.join()

    def _requests(self, topic, number):
        while self._room.acquire() and not self._over.is_set():
            values = [b"%d.%d" % (number, n) for n in range(10)]
            number += 1
            self._sent.put(values)
            yield batch(topic, values)

    def _read(self):
        try:
            for response in self._call:
                values = self._sent.get_nowait()
                if not response.error:
                    self.acked |= {response.offset + n: value for n, value in enumerate(values)}
                if len(self.acked) >= 500:
                    self.many.set()
                self._room.release()
        except grpc.RpcError as error:
            self.error = error
        finally:
            self._over.set()
            self._room.release()


def files_left(data_dir):
    return {path.relative_to(data_dir).as_posix() for path in data_dir.rglob("*") if path.is_file()}


def drain(call):
    """Read a call to its end, which is an error, and return that."""
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    return refusal(caught.value)


def stop_under_load(data_dir, number, acked):
    """Run one round: start on what the last one left, load the broker, signal it, check what is left.

    acked: acknowledged values by offset from earlier rounds; this round adds its own.
    """
    with (
        Broker(data_dir, shutdown_grace_ms=GRACE_MS, consume_heartbeat_ms=50) as broker,
        connected(broker.address) as stub,
    ):
        if not acked:
            create_topic(stub, "topic", 2)
        assert {r.offset: r.value for r in read_all(stub, "topic")}.items() >= acked.items()
        tails = [consume(stub, "topic", partition=1, deadline_s=60) for _ in range(3)]
        for tail in tails:
            next(tail)
        producer = StreamProducer(stub, "topic", first=number * 1_000_000)
        assert producer.many.wait(20)
        began = time.monotonic()
        assert broker.stop(SIGINT if number % 2 else SIGTERM) == 0
        assert time.monotonic() - began < GRACE_MS / 1_000 + 2
        producer.join()
        for tail in tails:
            assert drain(tail).code == grpc.StatusCode.UNAVAILABLE
        assert producer.error is None or producer.error.code() == grpc.StatusCode.UNAVAILABLE
        assert not broker.more_output()
        left = {"topics/topic/0.db", "topics/topic/1.db"}
        assert {name for name in files_left(data_dir) if name.startswith("topics/")} == left
        acked |= producer.acked


@pytest.mark.parametrize(
    "rounds", [4, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])]
)
def test_a_signal_ends_it_cleanly_under_open_streams(data_dir, rounds, figures):
    """A signal ends it with 0 within grace + 2 s; only .db files are left, with everything acknowledged."""
    acked: dict[int, bytes] = {}
    for number in range(rounds):
        stop_under_load(data_dir, number, acked)
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        records = read_all(stub, "topic")
        assert [record.offset for record in records] == list(range(len(records)))
        assert {r.offset: r.value for r in records}.items() >= acked.items()
        assert broker.stop() == 0
    figures(f"stop under load: {rounds} rounds, {len(acked)} records acknowledged, {len(records)} found")


async def call_until_it_ends(address, answers, errors):
    """CALLERS that call again at once, also when they are told that the broker stops."""

    async def one(stub):
        while True:
            try:
                answers.append(await stub.ListTopics(pb.ListTopicsRequest(), timeout=CALL_S_MAX))
            except grpc.aio.AioRpcError as error:
                errors.append(refusal(error))
                if errors[-1].reason != "SHUTTING_DOWN":
                    return

    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = TakhinServiceStub(channel)
        await asyncio.gather(*(one(stub) for _ in range(CALLERS)))


def test_calls_that_come_while_it_stops_are_told_why(broker):
    """None ends as CANCELLED, which is what gRPC's server makes of those that nobody has taken in."""
    answers: list[pb.ListTopicsResponse] = []
    errors: list[Refusal] = []
    callers = threading.Thread(
        target=asyncio.run, args=(call_until_it_ends(broker.address, answers, errors),)
    )
    callers.start()
    eventually(lambda: len(answers) >= 2 * CALLERS, seconds_max=CALL_S_MAX)
    assert broker.stop() == 0
    callers.join()
    assert {error.code for error in errors} == {grpc.StatusCode.UNAVAILABLE}
    assert "SHUTTING_DOWN" in {error.reason for error in errors}


def test_a_tail_is_told_that_the_broker_is_shutting_down(broker, stub):
    """When the broker stops, a tail ends with UNAVAILABLE and a reason, not with a broken connection."""
    create_topic(stub, "topic")
    tail = consume(stub, "topic")
    next(tail)
    assert broker.stop() == 0
    ended = drain(tail)
    assert (ended.code, ended.reason, ended.domain) == SHUTTING_DOWN


def test_a_tail_that_has_read_nothing_is_told_too(broker, stub):
    """A tail whose first response is still being written gets the reason when it reads, and delays nobody."""
    for topic in ("topic", "quiet"):
        create_topic(stub, topic)
    produce(stub, "topic", [b"x" * 1_000] * 1_000)  # more than a client buffers that does not read
    options = [*CHANNEL_OPTIONS, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1_024)]
    with grpc.insecure_channel(broker.address, options=options) as other:
        lagging = consume(TakhinServiceStub(other), "topic")
        quiet = consume(stub, "quiet")
        next(quiet)
        broker.send_signal(SIGTERM)
        for tail in (quiet, lagging):  # when the first has ended, the other has had its turn
            ended = drain(tail)
            assert (ended.code, ended.reason, ended.domain) == SHUTTING_DOWN
        assert broker.wait(3) == 0


@pytest.fixture
def slow(data_dir):
    """A broker with long waits for a locked file and for its calls, and with one topic."""
    with Broker(data_dir, storage_busy_wait_ms_max=30_000, shutdown_grace_ms=30_000) as broker:
        with connected(broker.address) as stub:
            create_topic(stub, "topic")
            produce(stub, "topic", [b"first"])
        yield broker


def test_what_was_queued_is_committed_and_answered(slow):
    """A draining broker is NOT_SERVING, refuses new calls, and acknowledges a queued request."""
    with (
        grpc.insecure_channel(slow.address, options=CHANNEL_OPTIONS) as channel,
        ForeignLock(slow.partition_file("topic")) as lock,
    ):
        stub = TakhinServiceStub(channel)
        watch = HealthStub(channel).Watch(health.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health.HealthCheckResponse.SERVING
        queued = stub.ProduceMessage.future(batch("topic", [b"queued"]), timeout=60)
        taken(stub)
        slow.send_signal(SIGTERM)
        assert next(watch).status == health.HealthCheckResponse.NOT_SERVING
        late = stub.ProduceMessage.future(batch("topic", [b"too late"]), timeout=60)
        assert refusal(late.exception()).code == grpc.StatusCode.UNAVAILABLE
        assert refusal(late.exception()).reason == "SHUTTING_DOWN"
        assert slow.running
        assert not queued.done()
        lock.release()
        assert (queued.result().offset, queued.result().error) == (1, "")
        assert slow.wait(10) == 0
    with Broker(slow.data_dir) as broker, connected(broker.address) as stub:
        assert [record.value for record in read_all(stub, "topic")] == [b"first", b"queued"]


@pytest.mark.timed
def test_a_second_signal_forces_the_end(slow):
    """A second signal ends the broker at once with another exit code than 0; nothing acknowledged is lost."""
    with connected(slow.address) as stub, ForeignLock(slow.partition_file("topic")):
        queued = stub.ProduceMessage.future(batch("topic", [b"queued"]), timeout=60)
        taken(stub)
        slow.send_signal(SIGTERM)
        eventually(lambda: refuses(stub))
        assert slow.running
        began = time.monotonic()
        slow.send_signal(SIGINT)
        assert slow.wait(10) != 0
        assert time.monotonic() - began < 2
        assert queued.exception().code() == grpc.StatusCode.UNAVAILABLE
    with Broker(slow.data_dir) as broker, connected(broker.address) as stub:
        assert [r.value for r in read_all(stub, "topic")][:1] == [b"first"]
        assert broker.stop() == 0


def taken(stub):
    """Make calls, which a connection begins in turn: afterwards the produce call before them is waiting."""
    for _ in range(20):
        assert end_offset(stub, "topic") == 1


def refuses(stub):
    """True if the broker refuses new calls."""
    call = stub.ListTopics.future(pb.ListTopicsRequest(), timeout=CALL_S_MAX)
    if call.code() == grpc.StatusCode.OK:
        return False
    return refusal(call.exception()).reason == "SHUTTING_DOWN"


def test_signals_at_any_moment_of_the_start_end_it(data_dir):
    """A broker that is signalled right after the ready line, or while calls begin, still exits with 0."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    pause = random.Random(seed)
    for _ in range(3):
        with Broker(data_dir) as broker, connected(broker.address) as stub:
            calls = [stub.HealthCheck.future(pb.HealthCheckRequest(), timeout=5) for _ in range(5)]
            time.sleep(pause.uniform(0, 0.05))
            assert broker.stop(pause.choice([SIGTERM, SIGINT])) == 0
            for call in calls:
                # If a call and the server's GOAWAY cross, gRPC says CANCELLED and does not begin the call.
                assert call.code().name in {"OK", "UNAVAILABLE", "CANCELLED"}
