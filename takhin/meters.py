"""What the parts of a broker count, as plain numbers. Whoever shows them (takhin/metrics) reads these values.

Only what nobody knows otherwise is counted here: what queues, files and logs know by themselves, they are
asked for. All of it lives on the event loop, so no number is behind a lock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

OTHER = "other"
"""What a tally puts in place of each label when there are too many combinations."""
COMBINATIONS_MAX = 1_000
"""Combinations of labels in one tally, so that a stranger who chooses a label cannot fill the memory. Not a
setting: what the parts of a broker count has far fewer."""


def powers(first: float, last: float, *, factor: float = 2.0) -> tuple[float, ...]:
    """Bounds of a histogram: `first` and each by so much larger than the one before, up to `last`."""
    bounds = [first]
    while bounds[-1] * factor <= last:
        bounds.append(bounds[-1] * factor)
    return tuple(bounds)


CALL_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Bounds for how long something takes that a caller waits for."""
DISK_SECONDS = (0.0001, 0.00025, *CALL_SECONDS[:-1])
"""Bounds for how long the disk takes."""


class Histogram:
    """How often a value was within each of some ranges, and the sum of all values.

    bounds: the ranges' upper bounds, ascending; a value equal to a bound is within. One more range
    has all that is above them.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[int]:
        """For each bound how many values are at or below it; the last number is that of all values."""
        return list(accumulate(self.counts))


class Tally:
    """Counts by labels: `tally.add("expired")` adds one to what `counts` has under ("expired",).

    labels: their names, for whoever shows the counts.
    """

    __slots__ = ("counts", "labels")

    def __init__(self, *labels: str) -> None:
        self.labels = labels
        self.counts: dict[tuple[str, ...], int] = {}

    def add(self, *values: str, count: int = 1) -> None:
        """Count. values: one for each label. Beyond COMBINATIONS_MAX new ones are counted as OTHER."""
        if values not in self.counts and len(self.counts) >= COMBINATIONS_MAX:
            values = (OTHER,) * len(self.labels)
        self.counts[values] = self.counts.get(values, 0) + count


class TopicMeter:
    """What is counted of one topic, since the broker started or the topic was made.

    appended_records, appended_bytes: of the batches that have landed; the sum of their `Batch.size_bytes`.
    consumed_records, consumed_bytes: what consumers were sent; bytes of the whole responses.
    """

    __slots__ = ("appended_bytes", "appended_records", "consumed_bytes", "consumed_records")

    def __init__(self) -> None:
        self.appended_records = 0
        self.appended_bytes = 0
        self.consumed_records = 0
        self.consumed_bytes = 0


class EngineMeters:
    """What an engine counts, and what is counted of its topics. One without commit groups observes none."""

    def __init__(self) -> None:
        self.group_records = Histogram(powers(1, 65_536, factor=4))
        """Records of each commit group, that is of each transaction; 0 for one of offsets alone."""
        self.group_bytes = Histogram(powers(1_024, 64 << 20, factor=4))
        """Bytes of each commit group while it waited."""
        self.commit_seconds = Histogram(DISK_SECONDS)
        """How long each COMMIT took, with its fsync, on the thread that waits for the disk."""
        self.checkpoint_seconds = Histogram(DISK_SECONDS)
        """How long each checkpoint took, from its first pass to its end."""
        self._topics: dict[str, TopicMeter] = {}

    def topic(self, name: str) -> TopicMeter:
        """The meter of a topic that there is."""
        meter = self._topics.get(name)
        if meter is None:
            meter = self._topics[name] = TopicMeter()
        return meter

    def drop(self, topic: str) -> None:
        """Forget a topic that was deleted."""
        self._topics.pop(topic, None)


class MethodMeter:
    """What is counted of the calls of one gRPC method.

    service, method: their names. kind: unary, client_stream, server_stream or bidi_stream.
    """

    __slots__ = ("codes", "kind", "method", "received", "seconds", "sent", "service", "started")

    def __init__(self, service: str, method: str, kind: str) -> None:
        self.service = service
        self.method = method
        self.kind = kind
        self.started = 0
        self.received = 0
        self.sent = 0
        self.codes: dict[str, int] = {}
        """How many calls have ended with each status, by its name as Go writes it: OK, NotFound."""
        self.seconds = Histogram(CALL_SECONDS)
        """How long the calls have taken."""


class Meters:
    """What one broker counts beside its engine, whichever part of it counts."""

    def __init__(self) -> None:
        self.auth_failures = Tally("reason")
        """Calls without valid credentials. reason: what is wrong with them, such as missing or expired."""
        self.access_denied = Tally("action")
        """Calls that the rules of access do not allow. action: read, write, group or admin."""
        self.certificates: dict[str, float] = {}
        """When the first certificate of those in use expires (seconds since 1970), by who uses them."""
