"""Looks whether the topics that a consumer reads have more partitions now, and has these read, too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from takhin.client.calls import Calls
from takhin.client.clock import monotonic
from takhin.client.consuming.lookup import Lookup
from takhin.client.consuming.positions import ReadRange, is_committed
from takhin.client.model import START, Position, Span, TopicDescription
from takhin.errors import TakhinError
from takhin.model import TopicPartition

LOOK_SECONDS = 3.0
"""Between two looks: new partitions are read within 5 s. A look takes the broker a fraction of a ms."""
LOOK_SECONDS_MAX = 10.0
"""How long a look may take, with all that follows from it."""

logger = logging.getLogger("takhin.client")


def start_of_new(start: Position) -> Span:
    """Where to begin in a partition that came after `assign_topics`.

    All of its records are newer than the assignment, so it is read from START, wherever the others began,
    but for what a group has committed and for times.
    """
    return Span(start if is_committed(start) or isinstance(start, datetime) else START)


class Watch:
    """A task that looks now and then, from `start` to `stop`. It is started again if somebody cancelled it.

    lookup: finds where to begin; a group that has committed nothing begins at START.
    topics: as they were when they were assigned. start: where their partitions began.
    add: has further partitions read.
    """

    endless = False

    def __init__(
        self,
        calls: Calls,
        lookup: Lookup,
        topics: Iterable[TopicDescription],
        start: Position,
        add: Callable[[Mapping[TopicPartition, ReadRange]], None],
    ) -> None:
        self._calls = calls
        self._lookup = lookup
        self._known = {of.name: of.outline for of in topics}
        self._span = start_of_new(start)
        self._add = add
        self._stopped = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look from now on. May be called again."""
        if self._task is None and not self._stopped:
            self._task = asyncio.get_running_loop().create_task(self._look_on())
            self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def mends(self, _at: TopicPartition, _error: Exception) -> bool:
        """Never: it is about new partitions alone."""
        return False

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look(monotonic() + LOOK_SECONDS_MAX)
            except (
                TakhinError
            ) as error:  # a topic that is deleted just now, or no broker: the next look tells
                logger.debug("cannot look for new partitions of %s: %s", ", ".join(self._known), error)

    async def _look(self, deadline: float) -> None:
        found = await self._calls.outline_topics(deadline, self._known)
        more = {
            name: outline
            for name, outline in found.items()
            if outline.topic_id == self._known[name].topic_id
            and outline.num_partitions > self._known[name].num_partitions
        }
        if more:
            spans = {
                TopicPartition(name, partition): self._span
                for name, outline in more.items()
                for partition in range(self._known[name].num_partitions, outline.num_partitions)
            }
            self._add(await self._lookup.find(spans, deadline))
            self._known.update(more)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (fault := task.exception()) is not None:
            logger.error("the task that looks for new partitions failed", exc_info=fault)
