"""Helpers that the client's tests share."""

from __future__ import annotations

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
