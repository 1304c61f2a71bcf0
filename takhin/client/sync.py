"""The clients for blocking code: `Producer`, `Consumer` and `Admin`.

    with Producer("127.0.0.1:9092") as producer:
        delivery = producer.send("orders", b"one", key=b"k")
        print(delivery.result().offset)

    with Consumer("127.0.0.1:9092") as consumer:
        consumer.assign_topics("orders")
        for record in consumer:
            print(record.offset, record.value)

Arguments, results and errors are those of `takhin.client`, where they are described. Each class wraps
the asynchronous one, which runs on an event loop that all blocking clients share, on a thread of its own. A
method waits on the calling thread, and may be interrupted there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from datetime import datetime
from functools import cached_property, wraps
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from takhin import client
from takhin.client.base import Client
from takhin.client.consuming.assignment import Assignment
from takhin.client.consuming.consumer import Batches as AsyncBatches
from takhin.client.consuming.consumer import ThreadedConsumer
from takhin.client.consuming.prefetched import Prefetched
from takhin.client.errors import InCallbackError
from takhin.client.forks import check, forked
from takhin.client.model import Headers
from takhin.client.producing.batches import PendingBatch
from takhin.client.producing.intake import UNFIT
from takhin.client.producing.per_record import Entry
from takhin.client.producing.producer import ThreadedProducer
from takhin.client.thread import loop_of, running_loop

C = TypeVar("C", bound=Client)
P = ParamSpec("P")
T = TypeVar("T")


class Blocking(Generic[C]):
    """An asynchronous client, the core, on the loop of the blocking ones."""

    def _begin(self, core: C) -> None:
        check()
        self._core = core
        self._loop = loop_of(os.getpid())
        self._run(core.open())

    def _run(self, work: Coroutine[Any, Any, T], seconds_max: float | None = None) -> T:
        """The result of a coroutine that runs on the clients' thread, as `_run` gives it."""
        return _run(self._loop, work, seconds_max)

    def close(self, timeout_s: float | None = None) -> None:
        """Like the asynchronous client's `close`, but cancels it after timeout_s. May be called again.

        Any thread may call it, also while another one waits in a method, which then raises a ClosedError.
        """
        if forked():  # it is the parent's, who goes on with it
            return

        async def closed() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._core.close()

        self._run(closed())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _run(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], seconds_max: float | None = None
) -> T:
    """The result of a coroutine that runs on the clients' thread. Cancels it if waiting ends early.

    Raises InCallbackError on that thread itself, which would wait for itself.
    """
    if forked():  # there is no such thread
        work.close()
        check()
    if running_loop() is loop:
        work.close()
        raise InCallbackError(
            "a blocking client was to wait in a callback, on the clients' own thread, where that would "
            "never end: hand the delivery over to a thread of your own"
        )
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result(seconds_max)
    except BaseException:
        future.cancel()
        raise


def _opening(make: Callable[P, C]) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """An __init__ with the arguments of an asynchronous client, which it makes and opens."""

    def decorated(_init: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        @wraps(make.__init__)
        def __init__(self: Blocking[C], /, *args: P.args, **kwargs: P.kwargs) -> None:  # noqa: N807
            self._begin(make(*args, **kwargs))

        return __init__

    return decorated


def _waiting(
    method: Callable[Concatenate[C, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Blocking[C], P], T]:
    """A coroutine method as one that waits for its result. Name, arguments and docstring stay."""

    @wraps(method)
    def wait(self: Blocking[C], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(method(self._core, *args, **kwargs))

    return wait


def _passed_on(method: Callable[Concatenate[C, P], T]) -> Callable[Concatenate[Blocking[C], P], T]:
    """A plain method, called on the clients' thread. Name, arguments and docstring stay."""

    @wraps(method)
    def call(self: Blocking[C], /, *args: P.args, **kwargs: P.kwargs) -> T:
        async def there() -> T:
            return method(self._core, *args, **kwargs)

        return self._run(there())

    return call


class Admin(Blocking[client.Admin]):
    """`takhin.client.Admin`, blocking."""

    @_opening(client.Admin)
    def __init__(self) -> None: ...

    create_topic = _waiting(client.Admin.create_topic)
    alter_topic = _waiting(client.Admin.alter_topic)
    describe_configs = _waiting(client.Admin.describe_configs)
    list_topics = _waiting(client.Admin.list_topics)
    describe_topic = _waiting(client.Admin.describe_topic)
    describe_topics = _waiting(client.Admin.describe_topics)
    delete_topic = _waiting(client.Admin.delete_topic)
    compact_topic = _waiting(client.Admin.compact_topic)
    partition_offsets = _waiting(client.Admin.partition_offsets)
    offset_for_time = _waiting(client.Admin.offset_for_time)
    offsets_for_times = _waiting(client.Admin.offsets_for_times)
    delete_records = _waiting(client.Admin.delete_records)
    list_groups = _waiting(client.Admin.list_groups)
    describe_group = _waiting(client.Admin.describe_group)
    delete_group = _waiting(client.Admin.delete_group)
    end_members = _waiting(client.Admin.end_members)
    delete_offsets = _waiting(client.Admin.delete_offsets)
    committed_offsets = _waiting(client.Admin.committed_offsets)
    commit_offsets = _waiting(client.Admin.commit_offsets)
    create_token = _waiting(client.Admin.create_token)
    list_tokens = _waiting(client.Admin.list_tokens)
    revoke_tokens = _waiting(client.Admin.revoke_tokens)
    change_access = _waiting(client.Admin.change_access)
    list_access = _waiting(client.Admin.list_access)
    health = _waiting(client.Admin.health)


class Delivery(Entry):
    """One record's outcome. Any thread may wait for it."""

    __slots__ = ()

    may_end_loop = False  # of the clients' thread, which is not the program's end

    _batch: PendingBatch

    @property
    def done(self) -> bool:
        """True if `result` would return or raise at once."""
        return self._batch.done

    def result(self, timeout_s: float | None = None) -> client.RecordMetadata:
        """Where the record was stored. Raises why it was not, or TimeoutError."""
        if not self._batch.done:
            _run(loop_of(os.getpid()), self._batch.wait(), timeout_s)
        return self._batch.metadata(self._position)

    def add_done_callback(self, callback: Callable[[Delivery], object]) -> None:
        """Have the clients' thread call `callback(delivery)` soon after it is done, with an equal delivery.

        All blocking clients stand still meanwhile, so it must not wait. `delivery.result()` works in it.
        What would wait for a blocking client raises InCallbackError there: `flush`, `append`, `close`, a
        new client, each method of a Consumer or Admin, `result` of another delivery that is not done, and
        `send` if the topic is new to the producer or the buffer full. To send or to wait, hand the
        delivery over to a thread of your own, by a queue. What the callback raises is logged by asyncio.
        """
        check()
        if self._batch.when_done(callback, self._position):
            loop_of(os.getpid()).call_soon_threadsafe(self._batch.call_back)


class Producer(Blocking[ThreadedProducer]):
    """`takhin.client.Producer`, blocking. Any number of threads may send."""

    @_opening(ThreadedProducer)
    def __init__(self) -> None: ...

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp: datetime | int | None = None,
        partition: int | None = None,
    ) -> Delivery:
        """Hand a record over, as `takhin.client.Producer.send` does. Waits only for room in the buffer."""
        intake = self._core.intake
        while (router := intake.router(topic)) is None:
            self._run(intake.ready(topic))
        try:
            record = router.encode(value, key, headers, timestamp)
            with router.lock:
                return router.queue(key, partition).put(record, Delivery)
        except UNFIT:
            if not self._run(intake.altered(topic)):
                raise
            return self.send(topic, value, key=key, headers=headers, timestamp=timestamp, partition=partition)

    append = _waiting(ThreadedProducer.append)
    flush = _waiting(ThreadedProducer.flush)


class Consumer(Blocking[ThreadedConsumer]):
    """`takhin.client.Consumer`, blocking. For one thread at a time."""

    @_opening(ThreadedConsumer)
    def __init__(self) -> None: ...

    assign = _waiting(ThreadedConsumer.assign)
    assign_topics = _waiting(ThreadedConsumer.assign_topics)
    seek = _waiting(ThreadedConsumer.seek)
    commit = _waiting(ThreadedConsumer.commit)
    assignment = _passed_on(ThreadedConsumer.assignment)
    source = _passed_on(ThreadedConsumer.source)
    position = _passed_on(ThreadedConsumer.position)
    end_offset = _passed_on(ThreadedConsumer.end_offset)
    pause = _passed_on(ThreadedConsumer.pause)
    resume = _passed_on(ThreadedConsumer.resume)

    def close(self, timeout_s: float | None = None) -> None:
        """Like `takhin.client.Consumer.close`, but cancels it after timeout_s. Any thread may call it."""
        self._core.check_outside_callbacks()
        super().close(timeout_s)

    def stop(self) -> None:
        """Let iterating end, as `takhin.client.Consumer.stop` does. Waits for nothing."""
        self._core.stop()

    @cached_property
    def _records(self) -> Records:
        return Records(self._core.assigned, self._run)

    def __iter__(self) -> Iterator[client.Record]:
        return self._records

    def __next__(self) -> client.Record:
        """The next record, as `takhin.client.Consumer` gives it. Goes on after an interrupt."""
        return next(self._records)

    def poll(self, timeout: float | None = None) -> client.Record | None:
        """The next record; None if none comes within `timeout` seconds, or if all spans are read.

        timeout: 0 takes only what has been read already; None waits. Raises as iterating does, and
        ClosedError to whoever goes on after the None that `stop` led to.
        """
        with suppress(TimeoutError):
            if (record := self._records.poll(timeout)) is not None:
                return record
        self._core.assigned.tell_of_end()
        return None

    def batches(
        self, max_records: int | None = None, timeout: float | None = None
    ) -> Iterator[client.RecordBatch]:
        """Like iterating over the consumer, but with all records of a response, or max_records, at once.

        timeout: iterating ends when none has come for so many seconds; it may be resumed.
        """
        return Batches(self._core.batches(max_records, timeout), self._run)


class Records:
    """Iterates over records. It may be resumed after it has ended, or was interrupted.

    A generator takes half as long as a method for each record, but it is over then; so another one follows.
    """

    __slots__ = ("__next__", "_assigned", "_run", "_waits_s_max")

    __next__: Callable[[], client.Record]
    """That of the generator, or `_begin`. Python looks it up for each record, and runs no code of ours."""

    def __init__(self, assigned: Assignment, run: Callable[..., Prefetched | None]) -> None:
        self._assigned = assigned
        self._run = run
        self._waits_s_max: float | None = None
        self.__next__ = self._begin

    def __iter__(self) -> Self:
        return self

    def poll(self, seconds_max: float | None) -> client.Record | None:
        """The next record; None if all spans are read. Raises TimeoutError after seconds_max."""
        self._waits_s_max = seconds_max
        try:
            return next(self, None)
        finally:
            self._waits_s_max = None

    def _begin(self) -> client.Record:
        """The first record of a new generator."""
        self.__next__ = self._hand_out().__next__
        return self.__next__()

    def _hand_out(self) -> Iterator[client.Record]:
        try:
            while (loaded := self._run(self._assigned.next_loaded(self._waits_s_max))) is not None:
                for record in loaded.records:  # the loop may end it at any time
                    loaded.processed = record.offset  # all before this one: it was asked for
                    yield record
                    if loaded.paused:
                        break
                loaded.pass_by()
        finally:
            self.__next__ = self._begin


class Batches:
    """Iterates over batches of records. It may be resumed after it has ended, or was interrupted."""

    def __init__(self, batches: AsyncBatches, run: Callable[..., Prefetched | None]) -> None:
        self._batches = batches
        self._run = run

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> client.RecordBatch:
        while (loaded := self._run(self._batches.loaded())) is not None:
            # Taken out on this thread, and only now: a wait that is interrupted loses no batch.
            batch = loaded.take(self._batches.records_max)
            if batch.records:
                return batch
        raise StopIteration
