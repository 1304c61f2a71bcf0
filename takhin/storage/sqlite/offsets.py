"""The offsets that consumer groups commit: kept in the partitions' files, answered from the index."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from takhin.model import CommittedOffset, TopicPartition
from takhin.storage.sqlite.catalogue import Catalogue
from takhin.storage.sqlite.offset_index import OffsetIndex


class SqliteOffsets:
    """The contract's `Offsets`, over the partitions of a catalogue."""

    def __init__(self, catalogue: Catalogue, index: OffsetIndex) -> None:
        self._catalogue = catalogue
        self._index = index

    async def commit(self, group_id: str, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        logs = [(self._catalogue.log(at), committed) for at, committed in offsets.items()]
        await _all_durable([log.commit_offset(group_id, committed) for log, committed in logs])

    def of(self, group_id: str) -> Mapping[TopicPartition, CommittedOffset]:
        return self._index.of(group_id)

    def groups(self) -> Sequence[str]:
        return self._index.groups()

    async def forget(self, group_id: str) -> None:
        committed = self._index.of(group_id)
        # A topic that is being deleted takes what was committed in it along.
        logs = [self._catalogue.log(at) for at in committed if at.topic in self._catalogue.topics]
        for log in logs:  # before anything is forgotten
            log.check_available()
        await _all_durable([log.forget_offset(group_id) for log in logs])


async def _all_durable(futures: Sequence[asyncio.Future[None]]) -> None:
    """Wait for every one, then raise the first error if there is any."""
    for outcome in await asyncio.gather(*futures, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
