"""What is wrong in the histories of a group's members: the anomalies of Jepsen's log test, and two owners.

A history is what one process of history_member.py wrote down. Pure. See github.com/jepsen-io/redpanda, whose
names of the anomalies these are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby, pairwise
from math import inf
from typing import Any, NamedTuple

Event = Mapping[str, Any]


class Stop(NamedTuple):
    """A time in which a process was stopped (SIGSTOP) or dead (SIGKILL: until is infinite)."""

    since: float
    until: float


@dataclass
class Session:
    """One partition in the hands of one member, from when it was assigned until it was given up or lost."""

    member: str
    partition: int
    since: float
    until: float = inf
    polls: list[Event] = field(default_factory=list)
    commits: list[Event] = field(default_factory=list)


def sessions(member: str, events: Iterable[Event], stops: Sequence[Stop]) -> Iterator[Session]:
    """The sessions of one member. What it held when it was killed it has held until then."""
    open_: dict[int, Session] = {}
    for event in events:
        what, partitions = event["what"], event.get("partitions", ())
        if what == "assigned":
            open_ |= {partition: Session(member, partition, event["at"]) for partition in partitions}
        elif what in ("revoked", "lost"):
            ended = [open_.pop(partition) for partition in partitions if partition in open_]
            for session in ended:
                session.until = event["at"]
            yield from ended
        elif what == "poll":
            open_[event["partition"]].polls.append(event)  # a KeyError is a fault: it had given it up
        elif what == "committed" and event["partition"] in open_:
            open_[event["partition"]].commits.append(event)
    for left in open_.values():
        left.until = min((stop.since for stop in stops if stop.until == inf), default=inf)
        yield left


def faults(
    acknowledged: Iterable[str],
    histories: Mapping[str, Sequence[Event]],
    stops: Mapping[str, Sequence[Stop]],
) -> list[str]:
    """A sentence for each anomaly. acknowledged: the values whose produce was answered."""
    every = [
        session
        for member, events in histories.items()
        for session in sessions(member, events, stops.get(member, ()))
    ]
    polled: dict[tuple[int, int], str] = {}
    found: list[str] = []
    for session in every:
        found += _within(session, polled)
    seen = set(polled.values())
    found += [f"lost write: {value} was never polled" for value in acknowledged if value not in seen]
    every.sort(key=lambda session: (session.partition, session.since))
    for _, of_partition in groupby(every, key=lambda session: session.partition):
        for one, other in combinations(of_partition, 2):
            found += _between(one, other, stops)
    return found


def _within(session: Session, polled: dict[tuple[int, int], str]) -> Iterator[str]:
    """Skipped, repeated and backward polls of a session, and offsets with two values."""
    where = f"partition {session.partition} at {session.member}"
    next_offset: int | None = None
    for poll in session.polls:
        if next_offset is not None and poll["first"] != next_offset:
            kind = "skipped" if poll["first"] > next_offset else "nonmonotonic or duplicate"
            yield f"{kind} poll: {where} went from {next_offset} to {poll['first']}"
        for offset, value in enumerate(poll["values"], poll["first"]):
            if (before := polled.setdefault((session.partition, offset), value)) != value:
                yield f"inconsistent offset: {where} has {value} at {offset}, not {before}"
        next_offset = poll["first"] + len(poll["values"])


def _between(one: Session, other: Session, stops: Mapping[str, Sequence[Stop]]) -> Iterator[str]:
    """Two owners at one time, and commits of a former owner; `one` began first.

    Who wakes may write down first what it was told before it slept: such a session is none.
    """
    if one.member == other.member or one.until <= other.since:
        return
    if any(stop.since < other.since < stop.until for stop in stops.get(other.member, ())):
        return
    if not any(stop.since < other.since and one.since < stop.until for stop in stops.get(one.member, ())):
        yield (
            f"two owners of partition {one.partition}: {one.member} until {one.until:.3f}, "
            f"{other.member} since {other.since:.3f}"
        )
    for commit in one.commits:
        if commit["begun"] > other.since:
            yield f"stale commit: {one.member} committed {commit['offset']} of partition {one.partition}"


class HandOver(NamedTuple):
    """A partition that went to another member. seconds: from the last poll of one to the other's first."""

    partition: int
    former: str
    owner: str
    since: float
    seconds: float


def hand_overs(histories: Mapping[str, Sequence[Event]]) -> list[HandOver]:
    """All of them, of partitions to which records come without a pause."""
    polls = sorted(
        (event["partition"], event["at"], member)
        for member, events in histories.items()
        for event in events
        if event["what"] == "poll"
    )
    return [
        HandOver(partition, former, owner, since, at - since)
        for (partition, since, former), (same, at, owner) in pairwise(polls)
        if partition == same and former != owner
    ]


def interrupted(histories: Mapping[str, Sequence[Event]]) -> list[str]:
    """Partitions that a member gave up and got back before anybody else had them."""
    every = sorted(
        (session for member, events in histories.items() for session in sessions(member, events, ())),
        key=lambda session: (session.partition, session.since),
    )
    return [
        f"{one.member} gave partition {one.partition} up and got it back"
        for one, other in pairwise(every)
        if one.partition == other.partition and one.member == other.member
    ]
