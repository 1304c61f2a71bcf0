"""`takhin offsets`: shows the offsets of logs and of times in them, and sets what a group reads next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from takhin.cli.connection import admin, group_argument, partition_option, run, server_option, topic_argument
from takhin.cli.names import Suggesting
from takhin.cli.output import json_option, print_json
from takhin.cli.positions import FORMS, parse_single
from takhin.cli.rows import print_table
from takhin.client import Admin, PartitionDescription, Position
from takhin.client.contexts import Endpoint
from takhin.errors import GroupNotEmptyError, OffsetOutOfRangeError, UnknownPartitionError
from takhin.sentences import counted

INCOMPLETE = 1
"""The exit code of a command that did its work without partitions that are not served."""
REASONS_MAX = 10
"""How many of these are named, each with its reason; the others are counted."""


@click.group(cls=Suggesting, no_args_is_help=False)
def offsets() -> None:
    """Show the offsets of a topic, and set those of a group."""


def single_position(_context: click.Context, _parameter: click.Parameter, text: str) -> Position:
    """Parse a position where a single position is wanted, not a range."""
    try:
        return parse_single(text, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@offsets.command("list")
@topic_argument
@partition_option
@click.option(
    "-o",
    "--offset",
    "at",
    default="end",
    callback=single_position,
    metavar="POSITION",
    help=f"{FORMS}.  [default: end]",
)
@json_option
@server_option
@click.pass_context
def list_(
    context: click.Context,
    topic: str,
    *,
    partition: int | None,
    at: Position,
    as_json: bool,
    server: Endpoint,
) -> None:
    """Show where the partitions of TOPIC begin and end, and which offset POSITION has in each.

    Partitions that are not served are left out and named on stderr; the exit code is 1 then.
    """

    async def listed() -> tuple[list[tuple[PartitionDescription, int]], list[PartitionDescription]]:
        async with admin(server) as broker:
            chosen = await _chosen(broker, topic, partition)
            served = [of for of in chosen if of.served]
            return await _resolved(broker, topic, served, at), [of for of in chosen if not of.served]

    found, left_out = run(listed())
    rows = [(of.partition, of.beginning_offset, of.end_offset, offset) for of, offset in found]
    titles = ["partition", "beginning", "end", "offset"]
    if as_json:
        print_json([dict(zip(titles, row, strict=True)) for row in rows])
    else:
        print_table(titles, rows)
    if left_out:
        name_left_out(left_out)
        context.exit(INCOMPLETE)


@offsets.command("set")
@group_argument
@topic_argument
@partition_option
@click.option(
    "-o", "--offset", "at", required=True, callback=single_position, metavar="POSITION", help=f"{FORMS}."
)
@json_option
@server_option
def set_(
    group: str, topic: str, *, partition: int | None, at: Position, as_json: bool, server: Endpoint
) -> None:
    """Let GROUP continue reading TOPIC at POSITION: commit its offset in each partition."""

    async def committed() -> list[tuple[PartitionDescription, int]]:
        async with admin(server) as broker:
            found = await _resolved(broker, topic, await _chosen(broker, topic, partition), at)
            try:
                await broker.commit_offsets(group, {(topic, of.partition): offset for of, offset in found})
            except GroupNotEmptyError as error:
                raise click.ClickException(
                    f"{error}; stop their programs, or end their membership with takhin groups seek --force"
                ) from error
            return found

    found = run(committed())
    rows: list[dict[str, Any]] = [{"partition": of.partition, "offset": offset} for of, offset in found]
    if as_json:
        print_json({"group_id": group, "topic": topic, "partitions": rows})
    else:
        print_table(["partition", "offset"], [tuple(row.values()) for row in rows])
        click.echo(f"group {group} continues there in {counted(len(rows), 'partition')} of {topic}")


async def _chosen(broker: Admin, topic: str, partition: int | None) -> list[PartitionDescription]:
    """All partitions of a topic, or the one asked for. Raises UnknownTopicError, UnknownPartitionError."""
    return chosen_partitions(topic, (await broker.describe_topic(topic)).partitions, partition)


async def _resolved(
    broker: Admin, topic: str, chosen: Iterable[PartitionDescription], at: Position
) -> list[tuple[PartitionDescription, int]]:
    """Each of these partitions with the offset that `at` has in it. Raises what `offset_at` raises."""
    return [(of, await offset_at(broker, topic, of, at)) for of in chosen]


def name_left_out(left_out: Sequence[PartitionDescription]) -> None:
    """Name on stderr the partitions that are not served. A command without them ends with INCOMPLETE."""
    for of in left_out[:REASONS_MAX]:
        click.echo(f"takhin: {of.unavailable_reason}", err=True)
    if more := left_out[REASONS_MAX:]:
        click.echo(f"takhin: {counted(len(more), 'more partition')} not served", err=True)


def chosen_partitions(
    topic: str, partitions: Iterable[PartitionDescription], partition: int | None
) -> list[PartitionDescription]:
    """All partitions, or the one asked for. Raises UnknownPartitionError."""
    known = list(partitions)
    chosen = [of for of in known if partition in (None, of.partition)]
    if partition is not None and not chosen:
        raise UnknownPartitionError(topic, partition, len(known))
    return chosen


async def offset_at(broker: Admin, topic: str, of: PartitionDescription, at: Position) -> int:
    """The offset that a position has in a partition with this description.

    Raises OffsetOutOfRangeError, PartitionUnavailableError if the partition is not served.
    """
    of.check_served(topic)
    if isinstance(at, datetime):
        return min(await broker.offset_for_time(topic, of.partition, at), of.end_offset)
    offset = at if isinstance(at, int) else of.offset_of(at, most=of.end_offset)
    if not of.beginning_offset <= offset <= of.end_offset:
        raise OffsetOutOfRangeError(topic, of.partition, offset, of.beginning_offset, of.end_offset)
    return offset
