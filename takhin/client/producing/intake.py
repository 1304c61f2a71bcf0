"""Where records enter a producer. Owns what it knows of topics; asks the broker about those it does not know.

The inner interface of both faces: takhin.client.sync gets its routers here, and uses them on its users'
threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from takhin.client import forks
from takhin.client.calls import Calls
from takhin.client.clock import monotonic
from takhin.client.errors import ClosedError
from takhin.client.model import PartitionDescription, TopicDescription
from takhin.client.producing.buffer import Buffer
from takhin.client.producing.doubts import Doubts
from takhin.client.producing.options import SendOptions
from takhin.client.producing.outbox import Outbox
from takhin.client.producing.queue import PartitionQueue
from takhin.client.producing.routing import Router
from takhin.client.retry import retried
from takhin.errors import RecordTooLargeError, UnavailableError, UnknownPartitionError
from takhin.model import INT64_MAX, TopicPartition
from takhin.topic_configs import MAX_MESSAGE_BYTES

ASK_SECONDS_MAX = 1.0
"""How long an idle producer's next record waits for word that its topic is what it was."""

UNFIT = (RecordTooLargeError, UnknownPartitionError)
"""What a router raises for a record that may fit since the topic was altered."""

logger = logging.getLogger("takhin.client")


class Intake:
    """A producer's way in: get the topic's `router`; if that is None, await `ready` and try again.

    If the router raises one of UNFIT, await `altered`; if that is True, try again.

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
        if buffer.bytes >= buffer.bytes_max:
            return None
        if topic not in self._doubts.certain and self._in_doubt(topic):
            return None
        return self._routers.get(topic)

    def _in_doubt(self, topic: str) -> bool:
        """True if the broker is to be asked: for a sender, or after a while in which nothing was sent."""
        doubts = self._doubts
        return topic in doubts.topics or (topic not in doubts.fresh and not self.outbox.sends(topic))

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
            if self._in_doubt(topic) or topic not in self._routers:
                await self._ask(topic, deadline)

    async def altered(self, topic: str) -> bool:
        """Ask about a topic because a record does not fit what is known of it; True if it was altered.

        Raises as `ready` does.
        """
        async with self._asking:
            self._check_open()
            before = self._routers[topic].outline
            await self._ask(topic, monotonic() + self._options.delivery_s_max)
            return self._routers[topic].outline != before

    async def _ask(self, topic: str, deadline: float) -> None:
        router = self._routers.get(topic)
        if router is None or topic in self._doubts.topics or not await self._is_as_before(topic, router):
            found = await retried(self._options.retry, deadline, self._calls.get_topic, topic)
            self._check_open()  # `shut` may have come meanwhile
            self._take(found)

    async def _is_as_before(self, topic: str, router: Router) -> bool:
        """Ask whether the topic was altered. Without a broker it is taken to be what it was."""
        try:
            found = await self._calls.outline_topics(monotonic() + ASK_SECONDS_MAX, [topic])
            same = found.get(topic) == router.outline
        except UnavailableError as error:
            logger.debug("cannot ask about topic %r: %s", topic, error)
            same = True
        self._check_open()  # `shut` may have come meanwhile
        if same:
            self._doubts.refresh(topic)
        return same

    def _take(self, topic: TopicDescription) -> None:
        """Route records by this description from now on."""
        encoder = self._calls.encoder(topic.name, int(topic.configs.get(MAX_MESSAGE_BYTES, INT64_MAX)))
        router = self._routers.get(topic.name)
        if router is None or router.outline.topic_id != topic.topic_id:
            queues = self._queues(topic, topic.partitions)
            self._routers[topic.name] = Router(topic.outline, queues, encoder, self._buffer)
        else:
            more = self._queues(topic, topic.partitions[router.outline.num_partitions :])
            router.alter(topic.outline, more, encoder)
        self._doubts.settle(topic.name, len(topic.partitions))

    def shut(self) -> None:
        """Take in nothing more."""
        self._shut = True
        self._routers.clear()  # so that everybody has to ask `ready`

    def _check_open(self) -> None:
        if self._shut:
            raise ClosedError("the producer is closed")

    def _queues(
        self, topic: TopicDescription, partitions: Sequence[PartitionDescription]
    ) -> list[PartitionQueue]:
        return [
            self.outbox.queue(TopicPartition(topic.name, of.partition), topic.topic_id, of.end_offset)
            for of in partitions
        ]
