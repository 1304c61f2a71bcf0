"""The writes of one partition that wait for their group, and how large a group may be."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from takhin.settings import StorageSettings
from takhin.storage.sqlite.group import CommitGroup, Queued, Write


class WriteQueue:
    """The writes of one partition that wait for their group, in order. Pure bookkeeping on the loop."""

    def __init__(self, settings: StorageSettings) -> None:
        self._records_max = settings.commit_group_records_max
        self._bytes_max = settings.commit_group_bytes_max
        self.waiting: deque[Queued] = deque()
        self._alone = 0  # so many of the next writes get a group of their own each

    def put(self, write: Write[Any], future: asyncio.Future[Any]) -> None:
        self.waiting.append((write, future))

    def take(self) -> CommitGroup:
        """Take the next group: what waits, within the limits, but at least one write."""
        writes: list[Queued] = []
        records = queued_bytes = 0
        while self.waiting:
            write = self.waiting[0][0]
            records += write.record_count
            size_bytes = write.queued_bytes
            if writes and (
                self._alone or records > self._records_max or queued_bytes + size_bytes > self._bytes_max
            ):
                break
            queued_bytes += size_bytes
            writes.append(self.waiting.popleft())
        self._alone = max(0, self._alone - 1)
        return CommitGroup(writes, queued_bytes)

    def take_appends(self) -> CommitGroup:
        """Take every append that waits, whatever the limits, and leave the other writes."""
        appends = [queued for queued in self.waiting if queued[0].record_count]
        others = [queued for queued in self.waiting if not queued[0].record_count]
        self.waiting.clear()
        self.waiting.extend(others)
        return CommitGroup(appends, sum(write.queued_bytes for write, _ in appends))

    def put_back(self, writes: Sequence[Queued], *, alone: bool = False) -> None:
        """Put writes back in front. alone: each gets a group of its own, as one of them failed the others."""
        self.waiting.extendleft(reversed(writes))
        if alone:
            self._alone = len(writes)
