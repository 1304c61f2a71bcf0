"""What `takhin top` knows: a look at a broker through its public interface, and what two looks say together.

The broker counts nothing for it: rates are those at which logs and committed offsets grow between two looks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from takhin.client import Admin, GroupDescription, GroupListing, Health, TopicDescription
from takhin.errors import UnknownGroupError

DESCRIBED_MAX = 50
"""Groups of which more is asked than the list says: those that are furthest behind, by a call for each."""


class Look(NamedTuple):
    """A broker at one moment. at: of time.monotonic(). described: of some of the groups."""

    at: float
    health: Health
    topics: Sequence[TopicDescription]
    groups: Sequence[GroupListing]
    described: Mapping[str, GroupDescription]


class TopicRow(NamedTuple):
    """What is shown of a topic. unserved: partitions that the broker cannot serve."""

    name: str
    partitions: int
    unserved: int
    records_per_s: float | None
    records: int
    size_bytes: int


class GroupRow(NamedTuple):
    """What is shown of a group. lag_ms: age of the oldest unread record; None: nobody knows."""

    group_id: str
    state: str
    members: int
    records_per_s: float | None
    lag: int
    lag_ms: int | None


class Picture(NamedTuple):
    """All that is shown. Rates are of records in a second; None where there is only one look."""

    health: Health
    produced_per_s: float | None
    consumed_per_s: float | None
    topics: Sequence[TopicRow]
    groups: Sequence[GroupRow]


async def look(broker: Admin) -> Look:
    """Ask for everything, one call after the other."""
    health = await broker.health()
    at = time.monotonic()
    topics = await broker.describe_topics(await broker.list_topics())
    groups = await broker.list_groups()
    described = {}
    for group in sorted(groups, key=lambda group: -group.lag)[:DESCRIBED_MAX]:
        try:
            described[group.group_id] = await broker.describe_group(group.group_id)
        except UnknownGroupError:  # it has gone since
            continue
    return Look(at, health, topics, groups, described)


def picture(before: Look | None, now: Look) -> Picture:
    """What a look shows, with the rates since the one before it."""
    ends, offsets = ({}, {}) if before is None else (_ends(before), _offsets(before))
    seconds = 1.0 if before is None else max(now.at - before.at, 0.001)
    produced = _growth(ends, _ends(now), seconds)
    consumed = _growth(offsets, _offsets(now), seconds)
    topics = [_topic(topic, produced) for topic in now.topics]
    groups = [_group(group, now.described.get(group.group_id), consumed) for group in now.groups]
    return Picture(
        now.health,
        None if before is None else _sum(produced.values()),
        None if before is None else _sum(consumed.values()),
        sorted(topics, key=lambda row: (-(row.records_per_s or 0), row.name)),
        sorted(groups, key=lambda row: (-row.lag, row.group_id)),
    )


Key = tuple[str, str, int]
"""(name of a topic and incarnation of the log, "", partition), or (group, topic, partition)."""


def _ends(of: Look) -> dict[Key, int]:
    """Where logs end. An incarnation is a log: one that was put back is another one."""
    return {
        (topic.name, log.incarnation_id, log.partition): log.end_offset
        for topic in of.topics
        for log in topic.partitions
        if log.served
    }


def _offsets(of: Look) -> dict[Key, int]:
    return {
        (group_id, offset.topic, offset.partition): offset.committed_offset
        for group_id, group in of.described.items()
        for offset in group.offsets
    }


def _growth(before: Mapping[Key, int], now: Mapping[Key, int], seconds: float) -> dict[Key, float]:
    """By how much each number has grown in a second. One that was moved back has not grown."""
    return {key: max(0, now[key] - before[key]) / seconds for key in now if key in before}


def _sum(rates: Iterable[float]) -> float:
    return round(sum(rates), 1)


def _topic(topic: TopicDescription, rates: Mapping[Key, float]) -> TopicRow:
    logs = topic.partitions
    keys = [(topic.name, log.incarnation_id, log.partition) for log in logs]
    known = [rates[key] for key in keys if key in rates]
    return TopicRow(
        topic.name,
        len(logs),
        sum(not log.served for log in logs),
        _sum(known) if known else None,
        sum(log.record_count for log in logs),
        sum(max(0, log.size_bytes) for log in logs),
    )


def _group(group: GroupListing, found: GroupDescription | None, rates: Mapping[Key, float]) -> GroupRow:
    offsets = [] if found is None else found.offsets
    keys = [(group.group_id, offset.topic, offset.partition) for offset in offsets]
    known = [rates[key] for key in keys if key in rates]
    ages = [offset.lag_ms for offset in offsets if offset.lag_ms >= 0]
    return GroupRow(
        group.group_id,
        group.state,
        group.member_count,
        _sum(known) if known else None,
        group.lag,
        max(ages) if ages else None,
    )
