"""Members of a group in blocking code, and in the broker in memory."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from takhin.client import TopicPartition, sync
from takhin.client.errors import ClosedError, InCallbackError
from takhin.errors import FencedMemberError
from takhin.testing import MemoryBroker


@pytest.fixture
def topic(server, name):
    with sync.Admin(server) as admin:
        admin.create_topic(name, partitions=2)
    return name


def fill(server, topic, count, partitions=2):
    with sync.Producer(server) as producer:
        for number in range(count):
            for partition in range(partitions):
                producer.send(topic, b"%d" % number, partition=partition)


def committed(server, group):
    with sync.Admin(server) as admin:
        return {at.partition: of.offset for at, of in admin.committed_offsets(group).items()}


def test_a_blocking_member(server, topic):
    """It joins when it is first iterated, and commits what was iterated past."""
    fill(server, topic, 3)
    with sync.Consumer(server, group_id=topic, topics=[topic]) as consumer:
        assert consumer.assignment() == []
        seen = [next(consumer) for _ in range(6)]
        assert {(of.partition, of.offset) for of in seen} == {(p, n) for p in range(2) for n in range(3)}
        assert len(consumer.assignment()) == 2
    last = seen[-1].partition
    assert committed(server, topic) == {last: 2, 1 - last: 3}
    fill(server, topic, 2)
    with sync.Consumer(server, group_id=topic, topics=[topic], auto_commit=False) as consumer:
        batches = [*consumer.batches(timeout=0.5)]
        assert sorted(len(batch.records) for batch in batches) in ([2, 3], [1, 2, 2], [2, 2, 1])
        consumer.commit(batches[-1])
        assert consumer.poll(0.01) is None
    assert committed(server, topic)[batches[-1].partition] == 5


def test_callbacks_may_wait(server, topic):
    """They run on a thread of their own, where the consumer's own methods work: seek, position, commit."""
    fill(server, topic, 5)
    told = []

    def assigned(partitions):
        told.append(("assigned", threading.current_thread() is main))
        for at in partitions:
            consumer.seek(*at, 3)

    def revoked(partitions):
        told.append(("revoked", [consumer.position(*at) for at in sorted(partitions)]))
        consumer.commit({TopicPartition(topic, 0): 4})

    main = threading.current_thread()
    options = {"auto_commit": False, "on_assigned": assigned, "on_revoked": revoked}
    with sync.Consumer(server, group_id=topic, topics=[topic], **options) as consumer:
        assert sorted((of.partition, of.offset) for of in [next(consumer) for _ in range(4)]) == [
            (0, 3),
            (0, 4),
            (1, 3),
            (1, 4),
        ]
    assert told == [("assigned", False), ("revoked", [5, 5])]
    assert committed(server, topic) == {0: 4}


def test_two_threads_share(server, topic):
    """Two members in two threads read each record once, and commit all."""
    fill(server, topic, 100)
    seen, lock = [], threading.Lock()

    def work():
        with sync.Consumer(server, group_id=topic, topics=[topic]) as consumer:
            while (record := consumer.poll(2)) is not None:
                with lock:
                    seen.append((record.partition, record.offset))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(seen) == [(partition, offset) for partition in range(2) for offset in range(100)]
    assert committed(server, topic) == {0: 100, 1: 100}


def test_stop_from_a_signal_handler_and_a_thread(server, topic):
    """`stop` ends a loop that waits, and `close` commits; stopping again, or after `close`, is nothing."""
    fill(server, topic, 5)
    former = signal.getsignal(signal.SIGUSR1)
    try:
        with sync.Consumer(server, group_id=topic, topics=[topic]) as consumer:
            signal.signal(signal.SIGUSR1, lambda *_: consumer.stop())
            timer = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGUSR1))
            timer.start()
            assert len([record.offset for record in consumer]) == 10
            assert [*consumer.batches()] == []
        assert committed(server, topic) == {0: 5, 1: 5}
    finally:
        signal.signal(signal.SIGUSR1, former)
    fill(server, topic, 1)
    with sync.Consumer(server, group_id=topic, topics=[topic]) as consumer:
        threading.Timer(0.5, consumer.stop).start()
        assert sum(len(batch.records) for batch in consumer.batches()) == 2
        consumer.stop()
    consumer.stop()
    with pytest.raises(ClosedError):
        next(consumer)
    assert committed(server, topic) == {0: 6, 1: 6}


def test_nothing_of_a_partition_that_moved(server, topic):
    """What was read ahead of a partition is dropped where it goes to another member; the other goes on."""
    fill(server, topic, 1_000)
    with (
        sync.Consumer(server, group_id=topic, topics=[topic], auto_commit=False) as first,
        sync.Consumer(server, group_id=topic, topics=[topic]) as second,
    ):
        records = [next(first) for _ in range(10)]
        theirs = []
        thread = threading.Thread(target=lambda: theirs.extend(next(second) for _ in range(1_000)))
        thread.start()
        while len(first.assignment()) == 2:
            records += filter(None, [first.poll(0.001)])
        (kept,) = first.assignment()
        before = len(records)
        while (record := first.poll(0.5)) is not None:
            records.append(record)
        thread.join(60)
        assert [record.offset for record in theirs] == list(range(1_000))
        assert {record.partition for record in theirs} == {1 - kept.partition}
        assert {record.partition for record in records[before:]} <= {kept.partition}
        assert [of.offset for of in records if of.partition == kept.partition] == list(range(1_000))
        first.commit()
        for record in records[:1]:
            if record.partition != kept.partition:
                with pytest.raises(FencedMemberError):
                    first.commit(record)
    assert committed(server, topic) == {kept.partition: 1_000, 1 - kept.partition: 999}


def test_in_the_memory_broker():
    """`takhin.testing.MemoryBroker` knows groups, too."""
    with MemoryBroker() as broker:
        with sync.Admin(broker.address) as admin:
            admin.create_topic("t", partitions=2)
        fill(broker.address, "t", 3)
        with sync.Consumer(broker.address, group_id="g", pattern="t.*") as consumer:
            assert len([next(consumer) for _ in range(6)]) == 6
            assert consumer.poll(0.1) is None
        assert committed(broker.address, "g") == {0: 3, 1: 3}


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration()], ids=repr)
def test_a_callback_that_raises_what_ends_threads(server, topic, error):
    """The clients' thread outlives it, and whoever iterates is told."""

    def assigned(_):
        raise error

    with sync.Consumer(server, group_id=topic, topics=[topic], on_assigned=assigned) as consumer:
        with pytest.raises(RuntimeError, match=type(error).__name__) as told:
            consumer.poll(10)
        assert told.value.__cause__ is error
        assert consumer.poll(0.01) is None


def test_close_in_a_callback_and_in_two_threads(server, topic):
    """In a callback it is refused, as it would wait for itself; two at one time both wait for the commit."""
    fill(server, topic, 3)
    second = []

    def revoked(_):
        second.append(threading.Thread(target=consumer.close))
        second[0].start()
        second[0].join(0.2)
        consumer.close()

    consumer = sync.Consumer(server, group_id=topic, topics=[topic], on_revoked=revoked)
    for _ in range(6):
        last = next(consumer).partition
    with pytest.raises(InCallbackError):
        consumer.close()
    second[0].join(10)
    assert committed(server, topic) == {last: 2, 1 - last: 3}
    consumer.close()
