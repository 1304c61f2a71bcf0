"""When a log is compacted, and what a pass may remove. Pure arithmetic, for every engine.

A pass keeps the last record of each key among those below `read_to`, and removes others below `end_offset`.
All that it decides by is fixed when it begins and stored with the log, so a pass that is interrupted goes on
to the same result. It goes upwards: when the tombstone of a key is removed, no older record of the key is
left that a second reading could take for the key's last one.

A pass ends before the last commit group and before the first record that is younger than
min.compaction.lag.ms. Records of the last group supersede others; those that are too young do not.

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
    """What passes have done. tombstones_kept: by the last one. under_way: a pass that has not ended."""

    gaps: Gaps = Gaps()
    passes: Sequence[PassSeen] = ()
    tombstones_kept: int = 0
    under_way: Pass | None = None

    def dirty(self, bounds: Bounds) -> int:
        """How many offsets no pass has seen that one could see now."""
        end = min(bounds.last_group, bounds.young)
        return max(0, end - max(self.gaps.compacted_below, bounds.start_offset))


def plan(bounds: Bounds, history: History, config: TopicConfig, now: int) -> Pass | None:
    """The pass that may begin now (ms since 1970); None where it would find nothing to do."""
    end = max(min(bounds.last_group, bounds.young), history.gaps.compacted_below)
    tombstones_below = expired_below(history.passes, now - config.delete_retention_ms)
    dirty = end > max(bounds.start_offset, history.gaps.compacted_below)
    newly_superseded = bounds.young > history.gaps.compacted_below and end > bounds.start_offset
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
    if not dirty:
        expired = expired_below(history.passes, now - config.delete_retention_ms)
        return history.tombstones_kept > 0 and expired > 0
    if dirty / (dirty + history.gaps.records_below) >= config.min_cleanable_dirty_ratio:
        return True
    return oldest_dirty is not None and now - oldest_dirty >= config.max_compaction_lag_ms


def expired_below(passes: Sequence[PassSeen], seen_until: int) -> int:
    """Tombstones below this offset were first seen by a pass that began at `seen_until` (ms) or before."""
    return max((seen.end_offset for seen in passes if seen.began_at <= seen_until), default=0)


def passes_after(passes: Sequence[PassSeen], done: Pass) -> list[PassSeen]:
    """What is to be remembered of passes once `done` has ended, in the order of their ends.

    Those that end at or below `done.tombstones_below` saw no tombstone that is still there.
    """
    left = [seen for seen in passes if seen.end_offset > done.tombstones_below]
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


def lost_between(first: int, end: int, lost: Sequence[tuple[int, int]]) -> int:
    """How many offsets of [first, end) were given up."""
    return sum(max(0, min(beyond, end) - max(begin, first)) for begin, beyond in lost)
