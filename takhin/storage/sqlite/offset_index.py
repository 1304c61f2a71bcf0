"""What consumer groups have committed, in memory, so that no question opens a file.

The index holds what is durable, and nothing else: it is filled as files are opened at start, and each commit
group adds what it has made durable in the turn of the loop in which it is answered.

Beside an offset it knows when the next record to read was stamped, for the lag in time. A file is asked for
it where it is open anyway: when a group commits, and at start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from takhin.model import CommittedOffset, TopicPartition

Committed = tuple[str, CommittedOffset | None]
"""A group, and what it has committed in one partition; None: nothing any more."""
NO_TIMES: Mapping[int, int] = MappingProxyType({})


class OffsetIndex:
    """What each group has durably committed, by partition. Pure bookkeeping on the loop."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[TopicPartition, CommittedOffset]] = {}
        self._logs: dict[TopicPartition, dict[str, int]] = {}  # the same offsets by partition
        self._lowest: dict[TopicPartition, int | None] = {}  # of these, where it is known
        self._wanted: dict[TopicPartition, Counter[int]] = {}  # how many groups are at an offset
        self._times: dict[TopicPartition, dict[int, int]] = {}  # by such an offset, where it is known

    def of(self, group_id: str) -> Mapping[TopicPartition, CommittedOffset]:
        """A copy of all that the group has committed."""
        return dict(self._groups.get(group_id, {}))

    def groups(self) -> Sequence[str]:
        """The groups with a committed offset, sorted."""
        return sorted(self._groups)

    def lowest(self, at: TopicPartition) -> int | None:
        """The lowest offset that a group has committed in a partition; None where none has."""
        if at not in self._lowest:
            self._lowest[at] = min(self._logs.get(at, {}).values(), default=None)
        return self._lowest[at]

    def time_at(self, at: TopicPartition, offset: int) -> int | None:
        """The timestamp of the first record at or after an offset that a group has committed, if known."""
        return self._times.get(at, NO_TIMES).get(offset)

    def note_times(self, at: TopicPartition, times: Mapping[int, int]) -> None:
        """Take in timestamps of the first records at or after offsets, as far as a group is there."""
        wanted = self._wanted.get(at)
        if wanted:
            self._times.setdefault(at, {}).update({of: time for of, time in times.items() if of in wanted})

    def note(
        self,
        at: TopicPartition,
        changes: Iterable[Committed],
        times: Mapping[int, int] = NO_TIMES,
        *,
        compacted: bool = False,
    ) -> None:
        """Take in what has become durable in one partition, oldest first.

        times: as for `note_times`. compacted: records were removed, so others may be the next ones to read.
        """
        if compacted:
            self._times.pop(at, None)
        of_log = self._logs.setdefault(at, {})
        for group_id, committed in changes:
            self._move(at, of_log.get(group_id), None if committed is None else committed.offset)
            if committed is not None:
                of_log[group_id] = committed.offset
                self._groups.setdefault(group_id, {})[at] = committed
                continue
            of_log.pop(group_id, None)
            if (offsets := self._groups.get(group_id)) is not None:
                offsets.pop(at, None)
                if not offsets:
                    del self._groups[group_id]
        if times:
            self.note_times(at, times)

    def _move(self, at: TopicPartition, before: int | None, now: int | None) -> None:
        """A group has moved from an offset to another one."""
        self._forget_lowest(at, before, now)
        wanted = self._wanted.setdefault(at, Counter())
        if now is not None:
            wanted[now] += 1
        if before is not None:
            wanted[before] -= 1
            if not wanted[before]:
                del wanted[before]
                self._times.get(at, {}).pop(before, None)

    def _forget_lowest(self, at: TopicPartition, before: int | None, now: int | None) -> None:
        """Forget the lowest offset of a partition if a group's new one may change it."""
        lowest = self._lowest.get(at)
        if lowest is None or before == lowest or (now is not None and now < lowest):
            self._lowest.pop(at, None)

    def forget(self, at: TopicPartition) -> None:
        """Forget what was read of one partition: its file is read once more."""
        self.note(at, [(group_id, None) for group_id, of in list(self._groups.items()) if at in of])

    def drop(self, topic: str) -> None:
        """Forget a topic that was deleted."""
        self._logs = {at: offsets for at, offsets in self._logs.items() if at.topic != topic}
        self._lowest = {at: lowest for at, lowest in self._lowest.items() if at.topic != topic}
        self._wanted = {at: wanted for at, wanted in self._wanted.items() if at.topic != topic}
        self._times = {at: times for at, times in self._times.items() if at.topic != topic}
        for group_id, offsets in list(self._groups.items()):
            kept = {at: committed for at, committed in offsets.items() if at.topic != topic}
            if not kept:
                del self._groups[group_id]
            elif len(kept) < len(offsets):
                self._groups[group_id] = kept
