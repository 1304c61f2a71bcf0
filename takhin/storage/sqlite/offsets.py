"""The offsets that consumer groups commit: kept in the partitions' files, answered from the index."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeAlias
from weakref import WeakValueDictionary

from takhin.errors import TakhinError
from takhin.model import CommittedOffset, TopicPartition
from takhin.storage.contract import NO_FENCES, Fence
from takhin.storage.fences import raise_any
from takhin.storage.sources import SourceIndex
from takhin.storage.sqlite.catalogue import Catalogue
from takhin.storage.sqlite.offset_index import OffsetIndex
from takhin.turns import in_turns

Write: TypeAlias = Callable[[], asyncio.Future[None]]
"""Queues a write; the future resolves when it is durable."""

AT_ONCE = 32
"""Writes that one call queues in one turn of the loop: each wakes a partition, which may open its file."""


class SqliteOffsets:
    """The contract's `Offsets`, over the partitions of a catalogue."""

    def __init__(self, catalogue: Catalogue, index: OffsetIndex, sources: SourceIndex) -> None:
        self._catalogue = catalogue
        self._index = index
        self._sources = sources
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def commit(
        self,
        group_id: str,
        offsets: Mapping[TopicPartition, CommittedOffset],
        fences: Mapping[TopicPartition, Fence] = NO_FENCES,
    ) -> None:
        logs = [self._catalogue.log(at) async for at in in_turns(offsets)]
        writes = (
            partial(log.commit_offset, group_id, committed, fences.get(at))
            for log, (at, committed) in zip(logs, offsets.items(), strict=True)
        )
        outcomes = await self._outcomes(group_id, writes)
        raise_any(dict(zip(offsets, outcomes, strict=True)))

    def of(self, group_id: str) -> Mapping[TopicPartition, CommittedOffset]:
        return self._index.of(group_id)

    def groups(self) -> Sequence[str]:
        return self._index.groups()

    async def forget(self, group_id: str, topics: Collection[str] | None = None) -> bool:
        of_group = self._index.of(group_id)
        committed = [at for at in of_group if topics is None or at.topic in topics]
        # A topic that is being deleted takes what was committed in it along.
        logs = {at: self._catalogue.log(at) for at in committed if at.topic in self._catalogue.topics}
        with_sources = [self._catalogue.log(at) for at in self._sources.of(group_id)]
        for log in (*logs.values(), *with_sources):  # before anything is forgotten
            log.check_available()
        writes = (partial(log.forget_offset, group_id) for log in logs.values())
        before = [partial(log.forget_sources, group_id, topics) for log in with_sources]
        outcomes = await self._outcomes(group_id, writes, before=before)
        raise_any(dict(zip(logs, outcomes, strict=True)))
        return bool(of_group or with_sources)

    async def _outcomes(
        self, group_id: str, writes: Iterable[Write], *, before: Sequence[Write] = ()
    ) -> list[BaseException | None]:
        """Queue all writes, a few at a time, and wait for every one; the error of each that has failed.

        Those of one group wait for each other, so that they land in the order of the calls.
        before: those that must be durable before any of the others is queued; raises the error of one.
        """
        rest, outcomes = deque(writes), list[BaseException | None]()
        turn = self._turns.setdefault(group_id, asyncio.Lock())
        async with turn:
            for at in range(0, len(before), AT_ONCE):
                for error in await _landed([_begun(write) for write in before[at : at + AT_ONCE]]):
                    if error is not None:
                        raise error
            while len(rest) > AT_ONCE:
                outcomes += await _landed([_begun(rest.popleft()) for _ in range(AT_ONCE)])
            last = [_begun(write) for write in rest]
        return outcomes + await _landed(last)


def _begun(write: Write) -> asyncio.Future[None]:
    """The write's future; one that has failed where the write cannot even be queued."""
    try:
        return write()
    except TakhinError as error:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(error)
        return future


async def _landed(futures: Sequence[asyncio.Future[None]]) -> list[BaseException | None]:
    """Wait for every one; the error of each that has failed."""
    return await asyncio.gather(*futures, return_exceptions=True)
