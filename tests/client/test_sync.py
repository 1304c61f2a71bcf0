"""The blocking clients: the same code on a thread, called from others."""

from __future__ import annotations

import inspect
import queue
import threading
from datetime import UTC, datetime, timedelta
from signal import SIGCONT, SIGSTOP

import pytest

from takhin import client
from takhin.client import END, START, Span, sync
from takhin.client.errors import ClosedError, FlushError, InCallbackError
from takhin.errors import InvalidRecordError, UnknownTopicError

ALL = Span(START, END)


@pytest.fixture
def topic(server, name):
    with sync.Admin(server) as admin:
        admin.create_topic(name, partitions=2)
    return name


def test_produce_and_consume(server, topic):
    """Deliveries have results, records come back, and positions and groups work."""
    with sync.Producer(server) as producer:
        first = producer.send(topic, b"a", partition=0, headers=[("h", b"1")])
        assert first.result(20) == (topic, 0, 0)
        assert first.done
        assert producer.append(topic, [b"b", b"c"], partition=1).end_offset == 2
        producer.send(topic, b"d", partition=0)
        producer.flush()
    with sync.Consumer(server, group_id=topic) as consumer:
        consumer.assign({(topic, 0): ALL})
        assert [(record.value, record.offset) for record in consumer] == [(b"a", 0), (b"d", 1)]
        assert (consumer.position(topic, 0), consumer.end_offset(topic, 0)) == (2, 2)
        consumer.seek(topic, 0, 1)
        consumer.pause((topic, 0))
        consumer.resume((topic, 0))
        for record in consumer:
            assert record.value == b"d"
            break
        consumer.commit()
        consumer.assign_topics(topic, start=ALL)
        assert sorted(len(batch.records) for batch in consumer.batches()) == [2, 2]
        assert consumer.assignment() == [(topic, 0), (topic, 1)]
    with sync.Admin(server) as admin:
        assert admin.committed_offsets(topic) == {(topic, 0): (2, "")}


def test_threads_may_share_a_producer(server, topic):
    """Eight threads send at once: every record is stored once, and each thread's are in its order."""
    with sync.Producer(server, buffer_bytes_max=200_000) as producer:

        def send(thread):
            for number in range(2_000):
                producer.send(topic, b"%d %d" % (thread, number), partition=thread % 2)

        threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with sync.Consumer(server) as consumer:
        consumer.assign_topics(topic, start=ALL)
        found = [tuple(map(int, record.value.split())) for record in consumer]
    for thread in range(8):
        assert [number for of, number in found if of == thread] == list(range(2_000))
    assert len(found) == 16_000


def test_a_record_goes_without_another_call(server, topic):
    """The client's own thread sends what it was given, even while the caller does something else."""
    with sync.Producer(server) as producer, sync.Consumer(server) as consumer:
        consumer.assign_topics(topic)
        producer.send(topic, b"alone")
        assert next(iter(consumer)).value == b"alone"


def test_errors_are_raised_where_one_waits(server, topic):
    """An error is raised at once, or by the delivery, or by `flush` if nobody awaited the delivery."""
    ahead = datetime.now(UTC) + timedelta(days=400)
    with sync.Producer(server) as producer:
        with pytest.raises(InvalidRecordError):
            producer.send(topic, "text")
        with pytest.raises(UnknownTopicError):
            producer.send("nowhere", b"")
        delivery = producer.send(topic, b"", timestamp=ahead)
        for _ in range(2):
            with pytest.raises(InvalidRecordError):
                delivery.result(20)
        producer.send(topic, b"", timestamp=ahead)
        with pytest.raises(FlushError) as raised:
            producer.flush()
        assert isinstance(raised.value.__cause__, InvalidRecordError)


def test_a_callback_is_called_on_the_clients_thread(server, topic):
    """A delivery's callback gets it on another thread, once it is done."""
    called = queue.SimpleQueue()
    with sync.Producer(server) as producer:
        delivery = producer.send(topic, b"", partition=0)
        delivery.add_done_callback(lambda of: called.put((of, threading.get_ident())))
        of, thread = called.get(timeout=20)
    assert of == delivery
    assert thread != threading.get_ident()
    assert of.result().offset == 0


def test_a_callback_that_would_wait_for_itself_is_told(server, topic):
    """Where a callback would stop all blocking clients for good it gets an error, and they go on."""
    told = queue.SimpleQueue()
    with sync.Producer(server) as producer, sync.Consumer(server) as consumer, sync.Admin(server) as admin:
        consumer.assign_topics(topic)
        attempts = {
            "send": lambda: producer.send("new to it", b""),
            "append": lambda: producer.append(topic, [b""], partition=0),
            "flush": producer.flush,
            "producer's close": producer.close,
            "result": lambda: producer.send(topic, b"", partition=1).result(20),
            "next": lambda: next(consumer),
            "batches": lambda: next(consumer.batches()),
            "poll": lambda: consumer.poll(1),
            "position": lambda: consumer.position(topic, 0),
            "health": admin.health,
            "another client": lambda: sync.Admin(server),
        }

        def callback(delivery):
            for name, attempt in attempts.items():
                try:
                    attempt()
                except InCallbackError as error:
                    told.put((name, str(error)))
            another = producer.send(topic, b"", partition=0)  # neither this waits nor the next line
            another.add_done_callback(lambda of: told.put(("another", of.result().offset)))
            told.put(("done", delivery.result().offset))

        producer.send(topic, b"", partition=0).add_done_callback(callback)
        found = dict(told.get(timeout=20) for _ in range(len(attempts) + 2))
        assert found.keys() == {*attempts, "done", "another"}
        assert (found["done"], found["another"]) == (0, 1)
        assert producer.send(topic, b"", partition=0).result(20).offset >= 1
        assert consumer.poll(20) is not None


@pytest.mark.parametrize("fault", [SystemExit, KeyboardInterrupt, ValueError])
def test_a_callback_does_not_end_the_clients_thread(server, topic, caplog, fault):
    """What a callback raises is logged, and all clients go on."""

    def callback(_delivery):
        raise fault

    with sync.Producer(server) as producer:
        producer.send(topic, b"", partition=0).add_done_callback(callback)
        assert producer.send(topic, b"", partition=0).result(20).offset == 1
        producer.flush()
    assert fault.__name__ in caplog.text


def test_an_interrupt_loses_no_batch(server, topic):
    """An interrupt that comes when a batch is there, and not yet given, leaves it for the next call."""
    with sync.Producer(server) as producer:
        producer.append(topic, [b"%d" % n for n in range(10)], partition=0)

    def interrupted(work):
        consumer._run(work)
        raise KeyboardInterrupt

    with sync.Consumer(server) as consumer:
        consumer.assign({(topic, 0): ALL})
        batches, wait = consumer.batches(max_records=3), consumer._run
        offsets = []
        for _ in range(4):
            batches._run = interrupted
            with pytest.raises(KeyboardInterrupt):
                next(batches)
            batches._run = wait
            offsets += [record.offset for record in next(batches).records]
        assert offsets == list(range(10))
        assert list(batches) == []


def test_waiting_has_an_end(shared, server, topic):
    """`result` takes a timeout, after which the record may still be stored."""
    with sync.Producer(server) as producer:
        producer.send(topic, b"", partition=0).result(20)
        shared.send_signal(SIGSTOP)
        delivery = producer.send(topic, b"", partition=0)
        with pytest.raises(TimeoutError):
            delivery.result(0.1)
        shared.send_signal(SIGCONT)
        assert delivery.result(20).offset == 1


def test_life(server):
    """Closing twice is allowed, a closed client raises a ClosedError, and a leaked one warns."""
    admin = sync.Admin(server)
    admin.close()
    admin.close()
    with pytest.raises(ClosedError):
        admin.health()
    leaked = sync.Admin(server)
    with pytest.warns(ResourceWarning, match="was not closed"):
        leaked._core.__del__()
    leaked.close()


@pytest.mark.parametrize("kind", ["Admin", "Producer", "Consumer"])
def test_nothing_is_missing(kind):
    """Every public method of the asyncio client is there with its docstring, and none needs an event loop."""
    ours, theirs = getattr(sync, kind), getattr(client, kind)
    assert inspect.signature(ours) == inspect.signature(theirs)
    for name, method in vars(theirs).items():
        if not name.startswith("_"):
            assert not inspect.iscoroutinefunction(getattr(ours, name)), name
            assert getattr(ours, name).__doc__ or not method.__doc__, name
