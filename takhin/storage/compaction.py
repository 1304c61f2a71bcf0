"""When a log is compacted, and what a pass may remove. Pure arithmetic, for every engine.

A pass keeps the last record of each key among those below `read_to`, and removes others below `end_offset`.
All that it decides by is fixed when it begins and stored with the log, so a pass that is interrupted goes on
to the same result. It goes upwards: when the tombstone of a key is removed, no older record of the key is
left that a second reading could take for the key's last one.

A pass ends before the last commit group and before the first record that is younger than
min.compaction.lag.ms. Records of the last group supersede others; records younger than min.compaction.lag.ms
neither go nor supersede.

A tombstone is removed delete.retention.ms after the first pass that saw it. That is the first one whose end
is above its offset, so the ends and times of passes say of every tombstone whether its time has come, and
nothing is stored per tombstone. (Kafka writes a time into each batch: KIP-534.)
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from takhin.model import TopicConfig

PASSES_REMEMBERED_MAX = 256
"""Where there are more, every second one is forgotten: the tombstones that it saw first stay somewhat longer.
Not a setting: a row each, and a pass forgets those that no longer matter."""


class Gaps(NamedTuple):
    """Where offsets may have no record, because compaction has removed it.

    compacted_below: only below this offset.
    records_below: how many records there are from the log's start up to that offset.
    """

    compacted_below: int = 0
    records_below: int = 0


class PassSeen(NamedTuple):
    """A pass as the tombstones know it: those below its end were there when it began (ms since 1970)."""

    end_offset: int
    began_at: int


class Pass(NamedTuple):
    """A pass and how far it has come.

    end_offset: it removes records below it.
    read_to: where the records end that supersede others.
    tombstones_below: tombstones below it are removed as well.
    began_at: ms since 1970.
    next_offset: everything below it is done.
    """

    end_offset: int
    read_to: int
    tombstones_below: int
    began_at: int
    next_offset: int


class Bounds(NamedTuple):
    """What a pass is planned by: the log as it is now.

    last_group: where the last commit group begins.
    young: the first offset whose record is younger than min.compaction.lag.ms; the end if there is none.
    """

    start_offset: int
    last_group: int
    young: int
    end_offset: int


class History(NamedTuple):
    """What passes have done.

    tombstones_kept: by the last one. under_way: a pass that has not ended. read_to: where the records end
    that the last one has read; 0: unknown.
    """

    gaps: Gaps = Gaps()
    passes: Sequence[PassSeen] = ()
    tombstones_kept: int = 0
    under_way: Pass | None = None
    read_to: int = 0

    def dirty(self, bounds: Bounds) -> int:
        """How many offsets no pass has seen that one could see now."""
        end = min(bounds.last_group, bounds.young)
        return max(0, end - max(self.gaps.compacted_below, bounds.start_offset))

    def unread(self, bounds: Bounds) -> bool:
        """True if there are records that no pass has read, and that would supersede others now."""
        return bounds.young > max(self.read_to, self.gaps.compacted_below, bounds.start_offset)

    def late(self, oldest: int, lag_ms: int, now: int) -> bool:
        """True if a record that no pass has seen is as old as a record may get. oldest: its timestamp.

        One that was as old already when the last pass began counts from then: it came later, or that pass
        has left it alone. Else each record that comes with an old timestamp would cost a pass over the log.
        """
        began = self.passes[-1].began_at if self.passes else now
        return now - (began if oldest + lag_ms <= began < now else oldest) >= lag_ms


def plan(bounds: Bounds, history: History, config: TopicConfig, now: int) -> Pass | None:
    """The pass that may begin now (ms since 1970); None where it would find nothing to do."""
    end = max(min(bounds.last_group, bounds.young), history.gaps.compacted_below)
    tombstones_below = expired_below(history.passes, now - config.delete_retention_ms)
    dirty = end > max(bounds.start_offset, history.gaps.compacted_below)
    newly_superseded = history.unread(bounds) and end > bounds.start_offset
    if not dirty and not newly_superseded and not (history.tombstones_kept and tombstones_below):
        return None
    return Pass(end, max(end, bounds.young), tombstones_below, now, bounds.start_offset)


def is_due(history: History, bounds: Bounds, config: TopicConfig, now: int, oldest_dirty: int | None) -> bool:
    """True if a pass should begin, or go on, by itself now (ms since 1970).

    oldest_dirty: the timestamp of the first record that no pass has seen; None if that is unknown.
    """
    if history.under_way is not None:
        return True
    dirty = history.dirty(bounds)
    if dirty and dirty / (dirty + history.gaps.records_below) >= config.min_cleanable_dirty_ratio:
        return True
    expired = expired_below(history.passes, now - config.delete_retention_ms)
    if not dirty and history.tombstones_kept and expired:
        return True
    new = dirty > 0 or (history.unread(bounds) and bounds.last_group > bounds.start_offset)
    return new and oldest_dirty is not None and history.late(oldest_dirty, config.max_compaction_lag_ms, now)


def expired_below(passes: Sequence[PassSeen], seen_until: int) -> int:
    """Tombstones below this offset were first seen by a pass that began at `seen_until` (ms) or before."""
    return max((seen.end_offset for seen in passes if seen.began_at <= seen_until), default=0)


def passes_after(passes: Sequence[PassSeen], done: Pass, lowest_tombstone: int | None) -> list[PassSeen]:
    """What is to be remembered of passes once `done` has ended, in the order of their ends.

    lowest_tombstone: the offset of the first tombstone that it has kept; None: there is none. Passes that end
    below it saw none that is still there first.
    """
    seen_from = done.end_offset if lowest_tombstone is None else lowest_tombstone
    left = [seen for seen in passes if seen.end_offset > seen_from]
    if not left or left[-1].end_offset < done.end_offset:
        left.append(PassSeen(done.end_offset, done.began_at))
    return left if len(left) <= PASSES_REMEMBERED_MAX else left[-1::-2][::-1]


def next_record(offset: int, gaps: Gaps, lost: Sequence[tuple[int, int]]) -> int:
    """Where the record at or after `offset` is at the latest, if nothing is missing that should be there.

    lost: ranges [first, beyond) that were given up, in order.
    """
    while True:
        beyond = max(offset, gaps.compacted_below)
        at = bisect_right(lost, beyond, key=lambda each: each[0]) - 1
        if at >= 0:
            beyond = max(beyond, lost[at][1])
        if beyond == offset:
            return offset
        offset = beyond


def count_records(start: int, end: int, gaps: Gaps, lost: Sequence[tuple[int, int]]) -> int:
    """How many records a log has from its start to its end. lost: as in `next_record`."""
    first = max(start, gaps.compacted_below)
    return gaps.records_below + end - first - lost_between(first, end, lost)


def lost_between(first: int, end: int, lost: Sequence[tuple[int, int]]) -> int:
    """How many offsets of [first, end) were given up."""
    return sum(max(0, min(beyond, end) - max(begin, first)) for begin, beyond in lost)
