"""Where records enter a producer. Owns what it knows of topics; asks the broker about those it does not know.

The inner interface of both faces: takhin.client.sync gets its routers here, and uses them on its users'
threads.
"""

from __future__ import annotations

import asyncio

from takhin.client import forks
from takhin.client.calls import Calls
from takhin.client.clock import monotonic
from takhin.client.errors import ClosedError
from takhin.client.model import TopicDescription
from takhin.client.producing.buffer import Buffer
from takhin.client.producing.doubts import Doubts
from takhin.client.producing.options import SendOptions
from takhin.client.producing.outbox import Outbox
from takhin.client.producing.records import RecordEncoder
from takhin.client.producing.routing import Router
from takhin.client.retry import retried
from takhin.model import INT64_MAX, TopicPartition
from takhin.topic_configs import MAX_MESSAGE_BYTES


class Intake:
    """A producer's way in: get the topic's `router`; if that is None, await `ready` and try again.

    `router` may be called on any thread, the other methods on the loop.
    """

    def __init__(self, calls: Calls, options: SendOptions) -> None:
        self._calls = calls
        self._options = options
        self._buffer = Buffer(options.buffer_bytes_max)
        self._doubts = Doubts()
        self.outbox = Outbox(calls, options, self._buffer, self._doubts)
        self._routers: dict[str, Router] = {}
        self._asking = asyncio.Lock()
        self._shut = False
        forks.shut_in_child(self)

    def router(self, topic: str) -> Router | None:
        """Takes in the topic's records. None while the topic is in doubt or not known, or the buffer full."""
        buffer = self._buffer
        if buffer.bytes >= buffer.bytes_max or topic in self._doubts.topics:
            return None
        return self._routers.get(topic)

    async def ready(self, topic: str) -> None:
        """Wait for room in the buffer, and ask the broker about the topic if it is in doubt or not known.

        Raises ClosedError after `shut`, ForkedError, UnknownTopicError, and UnavailableError after
        delivery_timeout_ms.
        """
        forks.check()
        await self._buffer.room()
        deadline = monotonic() + self._options.delivery_s_max
        async with self._asking:  # one task asks, the others wait for its answer
            self._check_open()
            if topic in self._routers and topic not in self._doubts.topics:
                return
            found = await retried(self._options.retry, deadline, self._calls.get_topic, topic)
            self._check_open()  # `shut` may have come meanwhile
            router = self._routers.get(topic)
            if router is None or router.topic_id != found.topic_id:
                self._routers[topic] = self._router(found)
            self._doubts.settle(topic)

    def shut(self) -> None:
        """Take in nothing more."""
        self._shut = True
        self._routers.clear()  # so that everybody has to ask `ready`

    def _check_open(self) -> None:
        if self._shut:
            raise ClosedError("the producer is closed")

    def _router(self, topic: TopicDescription) -> Router:
        queues = [
            self.outbox.queue(TopicPartition(topic.name, of.partition), topic.topic_id, of.end_offset)
            for of in topic.partitions
        ]
        max_message_bytes = int(topic.configs.get(MAX_MESSAGE_BYTES, INT64_MAX))
        encoder = RecordEncoder(topic.name, max_message_bytes)
        return Router(topic.topic_id, queues, encoder, self._buffer)
