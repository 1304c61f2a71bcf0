"""Writes several metrics that have the same labels: one row of numbers at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from takhin.metrics.sheet import Sheet

Numbers = Sequence[int | float | None]
"""What is known of a thing; None: it is not known, and no series shows it."""
KAFKA = "kafka_"
"""What the names of metrics begin with that are kafka_exporter's."""


class Columns:
    """Metrics with the same labels, each with its place in the numbers of a row.

    kafka: those with kafka_exporter's names are written, too. For them a group's label is `consumergroup`.
    """

    def __init__(self, sheet: Sheet, series: Mapping[str, int], *, kafka: bool) -> None:
        shown = [(name, at) for name, at in series.items() if kafka or not name.startswith(KAFKA)]
        self._columns = [(name, at, sheet.lines(name)) for name, at in shown]

    @staticmethod
    def count(series: Mapping[str, int], *, kafka: bool) -> int:
        """How many series a row has."""
        return sum(1 for name in series if kafka or not name.startswith(KAFKA))

    def add(self, labels: str, numbers: Numbers) -> None:
        """Add a row. labels: in braces, as they are written."""
        for name, at, lines in self._columns:
            if (number := numbers[at]) is not None:
                of = labels.replace("{group=", "{consumergroup=", 1) if name.startswith(KAFKA) else labels
                lines.append(f"{name}{of} {number}\n")
