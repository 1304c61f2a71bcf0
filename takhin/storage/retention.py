"""What of a log its topic's retention configs let go. Pure: both engines go by it.

A log loses records at its beginning alone, one by one (Kafka removes whole segments): all before the first
record that is young enough, and as many as are too many. A record's timestamp tells its age. One that is
ahead of the broker's clock cannot be true, and must not keep a log for ever: such a record counts from when
it was appended.
"""

from __future__ import annotations

from typing import NamedTuple

from takhin.model import NO_LIMIT, TopicConfig

AHEAD_MS = 60_000
"""How far a timestamp may be ahead of the broker's clock and still be believed, as clocks differ a little."""


class Limits(NamedTuple):
    """What may be kept of one partition; None where there is no limit."""

    age_ms: int | None
    size_bytes: int | None
    records: int | None
    consumed: bool = False
    """What every group has committed past goes, too."""

    def kept_since(self, now: int) -> int | None:
        """Records stamped before this time (ms) are too old."""
        return None if self.age_ms is None else now - self.age_ms

    def first_by_groups(self, start: int, committed: int | None) -> int:
        """The first offset to be kept, by the lowest that a group has committed; None: no group has any."""
        return max(start, committed) if self.consumed and committed is not None else start

    def first_by_number(self, start: int, records: int) -> int:
        """The first offset to be kept of a log that begins at `start`, by how many records there may be.

        A compacted log has gaps: then it is lower at first, so ask again when the records before it are gone,
        with the offset of the first one that is left.
        """
        return start if self.records is None else start + max(0, records - self.records)

    def excess_bytes(self, size_bytes: int) -> int:
        """How many bytes are too many where the records of a log take `size_bytes`. The last record stays."""
        return 0 if self.size_bytes is None else max(0, size_bytes - self.size_bytes)


def limits_of(config: TopicConfig) -> Limits | None:
    """The limits of a topic; None if nothing of it is to go."""
    numbers = (config.retention_ms, config.retention_bytes, config.retention_records)
    if not config.deletes or (not config.retention_consumed and all(each == NO_LIMIT for each in numbers)):
        return None
    age_ms, size_bytes, records = (None if each == NO_LIMIT else each for each in numbers)
    return Limits(age_ms, size_bytes, records, config.retention_consumed)


class Oldest(NamedTuple):
    """The first record of a log. appended: it was there by then, by the broker's clock; None: unknown."""

    timestamp: int
    appended: int | None

    def is_past(self, since: int, now: int) -> bool:
        """True if the record is too old. since: as `kept_since` says. now: the broker's clock, ms."""
        if self.timestamp <= now + AHEAD_MS:
            return self.timestamp < since
        return self.appended is not None and self.appended <= now and self.appended < since

    def is_unclear(self, now: int) -> bool:
        """True if the record is ahead of the clock, and nobody knows since when it is there.

        It counts from now on then.
        """
        return self.timestamp > now + AHEAD_MS and (self.appended is None or self.appended > now)
