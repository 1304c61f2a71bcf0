"""`takhin consume --group`: prints what a group gives to this member, commits what is printed, and leaves."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import click

from takhin.cli.connection import admin
from takhin.cli.offsets import name_left_out
from takhin.cli.printing import FullError, Output
from takhin.cli.waiting import TellingRetry
from takhin.client import Consumer, Span, TopicPartition
from takhin.client.contexts import Endpoint
from takhin.errors import UnknownTopicError

PREFETCH_BYTES_MAX = 4 << 20
"""Bytes read ahead of what was printed. Not an option: a few responses keep the printing busy."""
LOOK_S = 0.2
"""How often a member without records looks whether it has printed all there was."""
NOTHING_S = 3.0
"""How long a member that has no partition waits for one."""


@dataclass(frozen=True, slots=True)
class SharedQuery:
    """What the command line asks for. start: where the group has committed nothing."""

    group_id: str
    topics: tuple[str, ...]
    pattern: str | None
    asked: Span
    follow: bool
    compression: Literal["zstd"] | None

    def check(self, partition: int | None) -> None:
        """Raise BadParameter for what the group decides, and not the command line."""
        if partition is not None:
            raise click.BadParameter(
                "the group says which partitions are read; give one of --partition and --group",
                param_hint="--partition",
            )
        if self.topics and self.pattern is not None:
            raise click.BadParameter("a member has topics or a pattern, not both", param_hint="--pattern")
        if self.asked.stop is not None or isinstance(self.asked.start, int):
            raise click.BadParameter(
                "with --group this is where to begin if the group has committed nothing: start, end, +N, -N, "
                "@TIME or @-1h",
                param_hint="--offset",
            )


class _Ends:
    """Where the partitions of a member ended when it got them."""

    def __init__(self) -> None:
        self.consumer: Consumer
        self._ends: dict[TopicPartition, int] = {}
        self._began = time.monotonic()
        self.nothing = True
        """True while the member has not had any partition."""

    def assigned(self, partitions: list[TopicPartition]) -> None:
        self.nothing = False
        for at in partitions:
            self._ends[at] = self.consumer.end_offset(*at)

    def revoked(self, partitions: list[TopicPartition]) -> None:
        for at in partitions:
            self._ends.pop(at, None)

    def reached(self) -> bool:
        """True if all has been read of what the member holds, or if it was given nothing for a while."""
        if not self._ends:
            return time.monotonic() - self._began > NOTHING_S
        return all(self.consumer.position(*at) >= end for at, end in self._ends.items())


async def consume_as_member(server: Endpoint, query: SharedQuery, out: Output) -> bool:
    """Print what the group gives to this member, up to where it ends now, unless it is followed.

    Returns False if a partition of the topics is not served, which it has named.
    """
    async with admin(server) as broker:
        found = {of.name: of for of in await broker.describe_topics(query.topics)}
    for topic in query.topics:
        if topic not in found:
            if not query.follow:
                raise UnknownTopicError(topic)
            click.echo(f"takhin: there is no topic {topic!r} yet; waiting for it", err=True)
    left_out = [of for topic in found.values() for of in topic.partitions if not of.served]
    name_left_out(left_out)
    await _read(server, query, out)
    return not left_out


async def _read(server: Endpoint, query: SharedQuery, out: Output) -> None:
    ends = _Ends()
    ends.consumer = Consumer(
        server.server,
        **server.credentials,
        group_id=query.group_id,
        topics=query.topics or None,
        pattern=query.pattern,
        uncommitted=query.asked.start,
        client_id="takhin consume",
        on_assigned=ends.assigned,
        on_revoked=ends.revoked,
        on_lost=ends.revoked,
        prefetch_bytes_max=PREFETCH_BYTES_MAX,
        compression=query.compression,
        retry=TellingRetry(),
    )
    async with ends.consumer as consumer:
        batches = consumer.batches(timeout=None if query.follow else LOOK_S)
        while query.follow or not ends.reached():
            async for batch in batches:
                left = out.left
                try:
                    out.write(batch.records)
                except FullError:
                    await consumer.commit(batch.records[(left or 1) - 1])
                    return
                if not query.follow and ends.reached():
                    break
        await consumer.commit()
        if ends.nothing:
            click.echo(
                f"takhin: group {query.group_id} gave this member no partition: others have them all",
                err=True,
            )
