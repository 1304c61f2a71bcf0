"""Topics are altered while clients use them: nobody has to be restarted, and nothing is lost or repeated."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest

from blackbox.broker_process import Broker
from client.relay import Relay
from client.support import produce, values
from client.test_idempotence import QUICK, delivered, stored_unheard
from takhin.client import COMMITTED, END, START, Admin, Consumer, Producer, Span, sync
from takhin.client.clock import monotonic
from takhin.client.consuming import fetcher as fetcher_module
from takhin.client.consuming import watch
from takhin.client.consuming.watch import start_of_new
from takhin.client.errors import ClosedError
from takhin.client.producing import doubts, intake
from takhin.errors import OutcomeUnknownError, ReadOnlyTopicError, RecordTooLargeError, UnknownPartitionError
from takhin.partitioner import partition_for_key

CLIENTS = 8
NOTICED_SECONDS_MAX = 5.0
KEYS_EACH = 6
MOVED = next(key for key in (b"%d" % n for n in range(99)) if partition_for_key(key, 6) >= 3)
"""A key that belongs to one of three new partitions once there are six."""


@pytest.fixture
def at_once(monkeypatch):
    """Clients look often, instead of every 3 s."""
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(doubts, "FRESH_SECONDS", 0.3)


async def is_idle(producer, topic):
    """Return when the producer has been idle for so long that it asks before its next record."""
    await asyncio.sleep(1.1 * doubts.FRESH_SECONDS)  # that time passes is what it is about
    assert producer._intake._in_doubt(topic)


class Sending:
    """A producer that sends numbered records of its own keys until it is told to stop."""

    def __init__(self, server: str, topic: str, number: int) -> None:
        self.acknowledged: list[tuple[bytes, bytes, int, int]] = []
        self.noticed_at: float | None = None
        self.keys = [b"%d-%d" % (number, key) for key in range(KEYS_EACH)]
        assert any(partition_for_key(key, 6) >= 3 for key in self.keys)
        self._server = server
        self._topic = topic

    async def run(self, stop: asyncio.Event) -> None:
        sent = 0
        async with Producer(self._server) as producer:
            while not stop.is_set() or self.noticed_at is None:
                deliveries = []
                for key in self.keys * 5:
                    value = b"%d" % sent
                    deliveries.append((key, value, await producer.send(self._topic, value, key=key)))
                    sent += 1
                for key, value, delivery in deliveries:
                    landed = await delivery
                    self.acknowledged.append((key, value, landed.partition, landed.offset))
                    if landed.partition >= 3 and self.noticed_at is None:
                        self.noticed_at = monotonic()


class Reading:
    """A consumer that reads all there is."""

    def __init__(self, server: str, topic: str) -> None:
        self.read: list[tuple[bytes, bytes, int, int]] = []
        self.noticed_at: float | None = None
        self.noticed = asyncio.Event()
        self.assigned = asyncio.Event()
        self._news = asyncio.Event()
        self._server = server
        self._topic = topic

    async def run(self) -> None:
        async with Consumer(self._server) as consumer:
            await consumer.assign_topics(self._topic)
            self.assigned.set()
            async for record in consumer:
                self.read.append((record.key, record.value, record.partition, record.offset))
                self._news.set()
                if record.partition >= 3 and self.noticed_at is None:
                    self.noticed_at = monotonic()
                    self.noticed.set()

    async def has_read(self, count: int) -> None:
        while len(self.read) < count:
            self._news.clear()
            await self._news.wait()


def check_order(records: list[tuple[bytes, bytes, int, int]]) -> None:
    """Of each key, the numbers grow within a partition, and those of the new one follow those of the old."""
    epochs: dict[bytes, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for key, value, partition, _ in records:
        epochs[key][partition].append(int(value))
    for key, partitions in epochs.items():
        assert set(partitions) <= {partition_for_key(key, 3), partition_for_key(key, 6)}
        assert all(numbers == sorted(set(numbers)) for numbers in partitions.values())
        if len(partitions) == 2:
            old, new = partitions[partition_for_key(key, 3)], partitions[partition_for_key(key, 6)]
            assert old[-1] < new[0]


async def test_eight_producers_and_consumers_go_on(server, admin, wide, figures):
    """3 -> 6 partitions: no error, nothing lost, doubled or out of order, and all use the new ones in 5 s."""
    producers = [Sending(server, wide, number) for number in range(CLIENTS)]
    consumers = [Reading(server, wide) for _ in range(CLIENTS)]
    stop = asyncio.Event()
    reading = [asyncio.create_task(consumer.run()) for consumer in consumers]
    sending = [asyncio.create_task(producer.run(stop)) for producer in producers]
    async with asyncio.timeout(60):
        await asyncio.gather(*(consumer.assigned.wait() for consumer in consumers))
        await consumers[0].has_read(1_000)
        [warning] = await admin.alter_topic(wide, partitions=6)
        altered_at = monotonic()
        assert "keys" in warning
        await asyncio.gather(*(consumer.noticed.wait() for consumer in consumers))
        stop.set()
        await asyncio.gather(*sending)
        acknowledged = sorted(record for producer in producers for record in producer.acknowledged)
        await asyncio.gather(*(consumer.has_read(len(acknowledged)) for consumer in consumers))
    for task in reading:
        task.cancel()
    await asyncio.wait(reading)
    for producer in producers:
        check_order(producer.acknowledged)
    for consumer in consumers:
        assert sorted(consumer.read) == acknowledged
        check_order(consumer.read)
    slowest = [max(c.noticed_at for c in clients) - altered_at for clients in (producers, consumers)]
    figures("altered: {} records, producers {:.2f} s, consumers {:.2f} s".format(len(acknowledged), *slowest))
    assert max(slowest) < NOTICED_SECONDS_MAX


async def test_an_idle_producer_asks_before_its_next_record(server, admin, wide, at_once):
    """A producer that sent nothing for a while sends its next record to the key's new partition."""
    async with Producer(server) as producer:
        assert (await (await producer.send(wide, b"a", key=MOVED))).partition < 3
        await admin.alter_topic(wide, partitions=6)
        await is_idle(producer, wide)
        landed = await (await producer.send(wide, b"b", key=MOVED))
        assert landed.partition == partition_for_key(MOVED, 6)


async def test_a_busy_producer_is_told_by_its_answers(server, admin, wide):
    """The first answer after the change says that there are more partitions."""
    async with Producer(server) as producer:
        await (await producer.send(wide, b"a", key=MOVED))
        await admin.alter_topic(wide, partitions=6)
        await (await producer.send(wide, b"b", key=MOVED))
        landed = await (await producer.send(wide, b"c", key=MOVED))
        assert landed.partition == partition_for_key(MOVED, 6)


async def test_what_fits_since_the_change_is_sent(server, admin, topic):
    """A larger record, and one for a new partition, are sent by a producer that knows the topic as it was."""
    large = bytes(2 << 20)
    async with Producer(server) as producer:
        await (await producer.send(topic, b"a"))
        with pytest.raises(RecordTooLargeError):
            await producer.send(topic, large)
        with pytest.raises(UnknownPartitionError):
            await producer.send(topic, b"b", partition=1)
        await admin.alter_topic(topic, configs={"max.message.bytes": "3000000"}, partitions=2)
        await (await producer.send(topic, large, partition=0))
        await admin.alter_topic(topic, partitions=4)
        assert (await (await producer.send(topic, b"b", partition=3))).partition == 3
        await admin.alter_topic(topic, partitions=5)
        assert (await producer.append(topic, [b"c", b"d"], partition=4)).record_count == 2


async def test_a_blocking_producer_learns_of_it_too(server, wide):
    """The same holds for the blocking face: keys, new partitions by number, larger records."""

    def send() -> None:
        with sync.Admin(server) as blocking, sync.Producer(server) as producer:
            producer.send(wide, b"a", key=MOVED).result()
            assert "6 partitions" in blocking.alter_topic(wide, partitions=6)[0]
            producer.send(wide, b"b", key=MOVED).result()
            assert producer.send(wide, b"c", key=MOVED).result().partition >= 3
            blocking.alter_topic(wide, partitions=7, configs={"max.message.bytes": "3000000"})
            assert producer.send(wide, bytes(2 << 20), partition=6).result().partition == 6
            origins = {of.name: of.origin for of in blocking.describe_configs(wide)}
            assert origins["max.message.bytes"] == "topic"

    await asyncio.to_thread(send)


async def test_a_producer_does_not_wait_for_a_broker_that_is_down(data_dir, at_once):
    """Without a broker, an idle producer takes records in, and they are stored when one is there again."""
    with Broker(data_dir) as broker:
        async with Admin(broker.address) as admin, Producer(broker.address, retry=QUICK) as producer:
            await admin.create_topic("orders")
            await (await producer.send("orders", b"a"))
            broker.stop()
            await is_idle(producer, "orders")
            began = monotonic()
            deliveries = [await producer.send("orders", b"%d" % n) for n in range(100)]
            assert monotonic() - began < 5
            with Broker(data_dir, listen=broker.address) as again:
                await asyncio.gather(*deliveries)
                assert len(await values(again.address, "orders")) == 101


@pytest.mark.parametrize("configs", [{"read.only": "true"}, {"max.message.bytes": "1"}])
async def test_a_refusal_after_an_attempt_without_an_answer(server, admin, topic, configs):
    """A record may be stored if its first attempt went unanswered, whatever the broker says of the second."""
    async with Relay(server) as relay, Producer(relay.address, retry=QUICK) as producer:
        await (await producer.send(topic, b"first"))
        delivery = await stored_unheard(relay, admin, topic, delivered(producer, topic, b"second"))
        await admin.alter_topic(topic, configs=configs)
        relay.cut()
        with pytest.raises(OutcomeUnknownError, match="may have been stored"):
            await delivery
    assert await values(server, topic) == [b"first", b"second"]


async def test_a_read_only_topic_refuses_by_name(server, admin, topic):
    """The delivery fails with the error's own type, and the producer goes on when the topic takes records."""
    async with Producer(server) as producer:
        await admin.alter_topic(topic, configs={"read.only": "true"})
        with pytest.raises(ReadOnlyTopicError, match=r"read\.only"):
            await (await producer.send(topic, b"a"))
        await admin.alter_topic(topic, reset=["read.only"])
        assert (await (await producer.send(topic, b"b"))).offset == 0


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("start", [START, END, 0, COMMITTED])
async def test_new_partitions_are_read_from_their_start(server, admin, wide, name, start):
    """Wherever the others begin, all records of a partition that came later are new."""
    await produce(server, wide, [b"old"], partition=0)
    async with Consumer(server, group_id=name, uncommitted=END) as consumer:
        await consumer.assign_topics(wide, start=start)
        await admin.alter_topic(wide, partitions=5)
        await produce(server, wide, [b"new"], partition=4)
        async with asyncio.timeout(20):
            found = {(record.partition, record.value) async for record in until(consumer, b"new")}
        assert (4, b"new") in found
        assert len(consumer.assignment()) == 5
        await consumer.commit()
        assert (await admin.committed_offsets(name))[wide, 4].offset == 1


async def until(consumer, value):
    """The records up to one with this value."""
    async for record in consumer:
        yield record
        if record.value == value:
            return


def test_where_new_partitions_begin():
    """At START, but for what a group has committed and for times, which may lie ahead."""
    at = datetime.now(UTC) + timedelta(days=1)
    starts = {START: START, END: START, END - 5: START, 7: START, COMMITTED: COMMITTED, at: at}
    assert {start: start_of_new(start) for start in starts} == {of: Span(to) for of, to in starts.items()}


async def test_a_span_that_ends_gets_no_more_partitions(server, admin, wide, at_once):
    """What is read up to a stop, and what is assigned by number, stays as it was asked for."""
    async with Consumer(server) as consumer, Consumer(server) as follower:
        await consumer.assign_topics(wide, start=Span(START, END + 1))
        await follower.assign_topics(wide)
        await consumer.assign({(wide, 0): START})
        await admin.alter_topic(wide, partitions=4)
        await produce(server, wide, [b"new"], partition=3)
        assert (await follower.poll(20)).value == b"new"
        assert len(follower.assignment()) == 4
        assert len(consumer.assignment()) == 1
        await follower.assign({})
        assert follower.assignment() == []


async def test_a_blocking_consumer_reads_new_partitions(server, admin, wide, at_once):
    """The blocking face reads them as well, while its user waits in `poll`."""
    with sync.Consumer(server) as consumer:
        consumer.assign_topics(wide)
        await admin.alter_topic(wide, partitions=4)
        await produce(server, wide, [b"new"], partition=3)
        record = await asyncio.to_thread(consumer.poll, 20)
        assert (record.partition, record.value) == (3, b"new")


async def test_the_watch_goes_on_after_a_cancellation(server, admin, wide, at_once):
    """A program that cancels all of its tasks and reads on learns of new partitions all the same."""
    async with Consumer(server) as consumer:
        await consumer.assign_topics(wide)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if "look_on" in repr(task.get_coro()):
                task.cancel()
        await admin.alter_topic(wide, partitions=4)
        await produce(server, wide, [b"new"], partition=3)
        assert (await consumer.poll(20)).value == b"new"


async def test_new_partitions_share_the_scout(server, admin, wide, at_once, monkeypatch):
    """However often an assignment grows, one scout bounds how many of its partitions are read at one time."""
    monkeypatch.setattr(fetcher_module, "TAILS_MAX", 1)
    async with Consumer(server) as consumer:
        await consumer.assign_topics(wide)
        for partitions in (4, 5):
            await admin.alter_topic(wide, partitions=partitions)
            await produce(server, wide, [b"v"], partition=partitions - 1)
            assert (await consumer.poll(20)).partition == partitions - 1
        assert len({id(fetcher._scout) for fetcher in consumer._assigned._fetchers.values()}) == 1


async def test_a_producer_is_closed_while_it_asks(server, topic, monkeypatch):
    """Who asks a broker that does not answer whether a topic was altered is told that the producer closed."""
    monkeypatch.setattr(intake, "ASK_SECONDS_MAX", 0.3)
    async with Relay(server) as relay, Producer(relay.address) as producer:
        await (await producer.send(topic, b"v"))
        relay.hold_requests()
        asking = asyncio.create_task(producer.send(topic, bytes(1 << 21)))
        await relay.holds_requests()
        producer._intake.shut()  # as `close` does first
        with pytest.raises(ClosedError):
            await asking
