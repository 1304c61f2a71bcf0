"""`--rate` of `takhin topics`: how fast records come in, by the ends of logs before and after a while.

The broker counts nothing for it, and who does not ask does not wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

import click

from takhin.client import Admin, PartitionDescription, TopicDescription

SECONDS_MAX = 3_600.0

Rates = Mapping[str, float]
"""Records a second, by the incarnation id of a log; without those of which nobody knows."""

rate_option = click.option(
    "--rate",
    "rate_seconds",
    type=click.FloatRange(0.1, SECONDS_MAX),
    metavar="SECONDS",
    help="Look for so long, and show how many records a second come in meanwhile.",
)


async def described_with_rates(
    broker: Admin, names: Iterable[str], seconds: float
) -> tuple[list[TopicDescription], Rates]:
    """Topics as they are after `seconds`, and the rates until then."""
    asked = list(names)
    before = await broker.describe_topics(asked)
    began = time.monotonic()
    await asyncio.sleep(seconds)
    after = await broker.describe_topics(asked)
    elapsed = time.monotonic() - began
    ends = {of.incarnation_id: of.end_offset for of in _served(before)}
    return after, {
        of.incarnation_id: (of.end_offset - ends[of.incarnation_id]) / elapsed
        for of in _served(after)
        if of.incarnation_id in ends
    }


def _served(topics: Iterable[TopicDescription]) -> list[PartitionDescription]:
    return [of for topic in topics for of in topic.partitions if of.served]


def rate_in(partitions: Sequence[PartitionDescription], rates: Rates) -> float | None:
    """The rate of some partitions together; None if that of one of them is not known."""
    known = [rates.get(of.incarnation_id) for of in partitions]
    found = [rate for rate in known if rate is not None]
    return round(sum(found), 1) if len(found) == len(known) else None
