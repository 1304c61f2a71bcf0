"""Helpers that the client's tests share."""

from __future__ import annotations

import gc

from takhin.client import END, START, Consumer, Producer, Span

ALL = Span(START, END)


async def produce(server, topic, values, **arguments):
    """Send values and wait until they are stored; returns their metadata."""
    async with Producer(server) as producer:
        deliveries = [await producer.send(topic, value, **arguments) for value in values]
        return [await delivery for delivery in deliveries]


async def read(server, topic, span=ALL):
    """The records of a topic within a span that ends."""
    async with Consumer(server) as consumer:
        await consumer.assign_topics(topic, start=span)
        return [record async for record in consumer]


async def values(server, topic, span=ALL):
    return [record.value for record in await read(server, topic, span)]


class Ends:
    """Garbage that calls something when it is collected."""

    def __init__(self, call):
        self.itself = self
        self.call = call

    def __del__(self):
        self.call()


def in_collection(of_garbage, call):
    """What `call` returns, while Python's garbage collector calls `of_garbage` as soon as it can.

    That is where `call` makes the first object that the collector looks at; from Python 3.12 on, between two
    steps of Python code.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.disable()
    called = []
    Ends(lambda: called.append(of_garbage()))
    gc.set_threshold(1)
    gc.enable()
    try:
        return call()
    finally:
        gc.set_threshold(*thresholds)
        gc.collect()
        assert called
