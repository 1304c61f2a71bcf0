"""The offsets that consumer groups commit: kept in the partitions' files, answered from the index."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from weakref import WeakValueDictionary

from takhin.errors import TakhinError
from takhin.model import CommittedOffset, TopicPartition
from takhin.storage.sources import SourceIndex
from takhin.storage.sqlite.catalogue import Catalogue
from takhin.storage.sqlite.offset_index import OffsetIndex
from takhin.turns import in_turns

AT_ONCE = 32
"""Writes that one call queues in one turn of the loop: each wakes a partition, which may open its file."""


class SqliteOffsets:
    """The contract's `Offsets`, over the partitions of a catalogue."""

    def __init__(self, catalogue: Catalogue, index: OffsetIndex, sources: SourceIndex) -> None:
        self._catalogue = catalogue
        self._index = index
        self._sources = sources
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def commit(self, group_id: str, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        logs = [(self._catalogue.log(at), committed) async for at, committed in in_turns(offsets.items())]
        await self._all_durable(
            group_id, [partial(log.commit_offset, group_id, committed) for log, committed in logs]
        )

    def of(self, group_id: str) -> Mapping[TopicPartition, CommittedOffset]:
        return self._index.of(group_id)

    def groups(self) -> Sequence[str]:
        return self._index.groups()

    async def forget(self, group_id: str) -> None:
        committed = self._index.of(group_id)
        # A topic that is being deleted takes what was committed in it along.
        logs = [self._catalogue.log(at) for at in committed if at.topic in self._catalogue.topics]
        with_sources = [self._catalogue.log(at) for at in self._sources.of(group_id)]
        for log in (*logs, *with_sources):  # before anything is forgotten
            log.check_available()
        await self._all_durable(
            group_id,
            [partial(log.forget_offset, group_id) for log in logs],
            before=[partial(log.forget_sources, group_id) for log in with_sources],
        )

    async def _all_durable(
        self,
        group_id: str,
        writes: Sequence[Callable[[], asyncio.Future[None]]],
        *,
        before: Sequence[Callable[[], asyncio.Future[None]]] = (),
    ) -> None:
        """Queue all writes, a few at a time, and wait for every one; then raise the first error, if any.

        Those of one group wait for each other, so that they land in the order of the calls.
        before: those that must be durable before any of the others is queued.
        """
        rest, failed = deque(writes), list[BaseException]()
        first = deque(before)
        turn = self._turns.setdefault(group_id, asyncio.Lock())
        async with turn:
            while first:
                failed += await _errors([_begun(first.popleft()) for _ in range(min(AT_ONCE, len(first)))])
            if failed:
                raise failed[0]
            while len(rest) > AT_ONCE:
                failed += await _errors([_begun(rest.popleft()) for _ in range(AT_ONCE)])
            last = [_begun(write) for write in rest]
        failed += await _errors(last)
        if failed:
            raise failed[0]


def _begun(write: Callable[[], asyncio.Future[None]]) -> asyncio.Future[None]:
    """The write's future; one that has failed where the write cannot even be queued."""
    try:
        return write()
    except TakhinError as error:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(error)
        return future


async def _errors(futures: Sequence[asyncio.Future[None]]) -> list[BaseException]:
    """Wait for every one; the errors of those that have failed."""
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    return [outcome for outcome in outcomes if outcome is not None]
