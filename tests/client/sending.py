"""What a producer's inner parts make of calls, whatever they are called with, as values that can be compared.

test_compiled.py carries the same calls out in this process and in one without the compiled part.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from takhin.client import RecordMetadata
from takhin.client.model import TopicOutline
from takhin.client.producing import per_record
from takhin.client.producing.batches import Delivery, PendingBatch
from takhin.client.producing.buffer import Buffer
from takhin.client.producing.options import SendOptions
from takhin.client.producing.queue import PartitionQueue
from takhin.client.producing.records import RecordEncoder
from takhin.client.producing.routing import Router
from takhin.client.retry import Retry
from takhin.errors import RecordTooLargeError
from takhin.model import TopicPartition

Call = tuple[Any, ...]
"""Its name and its arguments."""

told: ContextVar[str] = ContextVar("told", default="nothing")


class OwnBytes(bytes):
    """Bytes of a class of its own."""


ODD = {
    "own": OwnBytes(b"own"),
    "list": [],
    "object": object(),
    "view": memoryview(b"view"),
    "inf": float("inf"),
}
"""Arguments that go to the other process by name."""


class Sending:
    """A router with queues, to which calls are made. log: what came of each."""

    def __init__(self, partitions: int, batch_bytes_max: int, batch_records_max: int) -> None:
        options = SendOptions(
            batch_records_max=batch_records_max,
            batch_bytes_max=batch_bytes_max,
            buffer_bytes_max=1 << 20,
            in_flight_max=1,
            linger_s=0,
            delivery_s_max=1.0,
            idempotent=True,
            retry=Retry(),
        )
        self.log: list[Any] = []
        self.buffer = Buffer(1 << 20)
        self.queues = [
            PartitionQueue(
                TopicPartition("t", number), options, self.buffer, lambda: self.log.append("woken")
            )
            for number in range(partitions)
        ]
        encoder = RecordEncoder("t", 5_000)
        self.router = Router(TopicOutline("id", {}, partitions), self.queues, encoder, self.buffer)
        self.router._sticky = self.queues[0]  # where to begin is random
        self.router._turn = iter(range(1, 1 << 30))
        self.deliveries: list[Delivery] = []
        self.taken: list[PendingBatch] = []

    def send(self, *args: Any) -> Any:
        delivery = self.router.put(Delivery, *args)
        self.deliveries.append(delivery)
        return type(delivery).__name__, delivery._position, delivery._batch.at, delivery.done

    def take(self, number: int) -> Any:
        batch = self.queues[number % len(self.queues)].take()
        if batch is None:
            return None
        self.taken.append(batch)
        return batch.at, batch.records, batch.size_bytes

    def settle(self, *outcomes: int | None) -> Any:
        if not self.taken:
            return None
        batch = self.taken.pop()
        for position, offset in zip(range(len(batch.records)), outcomes, strict=False):
            found = RecordTooLargeError("large") if offset is None else offset
            batch.outcomes.append((position, found))
        batch.settle()
        self.buffer.give_back(batch.size_bytes)
        return repr(batch.failure)

    def watch(self, number: int, kind: str) -> Any:
        """Add a callback to a delivery."""
        if not self.deliveries:
            return None
        delivery = self.deliveries[number % len(self.deliveries)]

        def callback(of: Delivery) -> None:
            self.log.append((kind, of == delivery, hash(of) == hash(delivery), told.get(), result_of(of)))
            told.set("something")
            if kind == "adds":
                of.add_done_callback(lambda other: self.log.append(("added", other == of)))
            if kind in ERRORS:
                raise ERRORS[kind](kind)

        if kind == "named":
            return delivery.add_done_callback(callback=callback)
        return delivery.add_done_callback(callback if kind != "none" else None)  # type: ignore[arg-type]

    def result(self, number: int) -> Any:
        return result_of(self.deliveries[number % len(self.deliveries)]) if self.deliveries else None

    def compare(self, one: int, other: int) -> Any:
        if not self.deliveries:
            return None
        two = [self.deliveries[number % len(self.deliveries)] for number in (one, other)]
        return two[0] == two[1], two[0] != two[1], len(set(two)), two[0] == one, two[0] < two[1]  # type: ignore[operator]


ERRORS: dict[str, type[BaseException]] = {
    "raises": ValueError,
    "exits": SystemExit,
    "interrupts": KeyboardInterrupt,
    "is cancelled": asyncio.CancelledError,
}


def result_of(delivery: Delivery) -> Any:
    try:
        found = delivery.result()
    except (RecordTooLargeError, asyncio.InvalidStateError) as error:
        return repr(error)
    return type(found) is RecordMetadata, found


def carried_out(partitions: int, limits: tuple[int, int], calls: Sequence[Call]) -> list[Any]:
    """What came of the calls, and of the callbacks after each."""
    sending = Sending(partitions, *limits)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(
        lambda _, context: sending.log.append(plain(context["message"], context["exception"]))
    )

    async def call(name: str, args: Sequence[Any]) -> None:
        sending.log.append(getattr(sending, name)(*args))

    for name, *args in calls:
        given = [ODD.get(arg, arg) if isinstance(arg, str) else arg for arg in args]
        for work in (lambda: call(name, given), lambda: asyncio.sleep(0), lambda: asyncio.sleep(0)):  # noqa: B023
            try:
                loop.run_until_complete(work())
            except BaseException as error:  # noqa: BLE001  also what ends a program
                sending.log.append(plain(name, error))
    loop.close()
    return [*sending.log, sending.buffer.bytes]


def plain(*what: object) -> list[str]:
    """Texts without addresses and names that differ."""
    return [re.sub(r"0x[0-9a-f]+|\b\w+\.(?=\w+\(\))", "", repr(each)) for each in what]


def in_python(*args: Any) -> tuple[bool, list[Any]]:
    """The same in a process without the compiled part: (it has none, what came of it)."""
    return per_record.Router is per_record.PythonRouter, carried_out(*args)


def without_compiled() -> None:
    """Begin such a process: before anything of takhin is imported."""
    os.environ["TAKHIN_STORAGE_NATIVE"] = "off"
