"""`takhin topics trim`: removes the oldest records of a topic."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import click

from takhin.cli.connection import admin, partition_option, run, server_option, topic_argument
from takhin.cli.offsets import INCOMPLETE, chosen_partitions, name_left_out, offset_at, single_position
from takhin.cli.output import confirm, json_option, print_json, yes_option
from takhin.cli.positions import FORMS
from takhin.cli.rows import print_table
from takhin.client import Admin, PartitionDescription, Position
from takhin.client.contexts import Endpoint
from takhin.errors import PartitionUnavailableError, TakhinError
from takhin.sentences import counted

UNKNOWN = "?"


class Plan(NamedTuple):
    """What to trim: each partition as it is now with the offset below which its records go.

    left_out: partitions that are not served.
    """

    places: Sequence[tuple[PartitionDescription, int]]
    left_out: Sequence[PartitionDescription]


class Done(NamedTuple):
    """A partition after the trim. removed: how many records of it went meanwhile; None if nobody knows."""

    partition: int
    beginning: int
    end: int
    removed: int | None


@click.command()
@topic_argument
@click.option(
    "--before",
    required=True,
    callback=single_position,
    metavar="POSITION",
    help=f"Remove the records before it: {FORMS}. end: all that are there now.",
)
@partition_option
@yes_option
@json_option
@server_option
@click.pass_context
def trim(
    context: click.Context,
    topic: str,
    *,
    before: Position,
    partition: int | None,
    yes: bool,
    as_json: bool,
    server: Endpoint,
) -> None:
    """Remove the oldest records of TOPIC from each of its partitions, for good.

    Partitions that cannot be trimmed, because the broker does not serve them, are named on stderr, and the
    others are trimmed all the same; the exit code is 1 then.
    """
    plan = run(_planned(server, topic, partition, before))
    confirm(_question(topic, plan, before), yes=yes)
    done, errors = run(_trimmed(server, topic, plan))
    if as_json:
        print_json([of._asdict() for of in done])
    else:
        rows = [(*of[:-1], UNKNOWN if of.removed is None else of.removed) for of in done]
        print_table(Done._fields, rows)
        removed = counted(sum(of.removed or 0 for of in done), "record")
        click.echo(f"removed {removed} of {topic}")
    name_left_out(plan.left_out)
    for error in errors:
        click.echo(f"takhin: {error}", err=True)
    if plan.left_out or errors:
        context.exit(INCOMPLETE)


async def _planned(server: Endpoint, topic: str, partition: int | None, before: Position) -> Plan:
    """All positions are looked up before anything is removed: a bad one removes nothing."""
    async with admin(server) as broker:
        chosen = chosen_partitions(topic, (await broker.describe_topic(topic)).partitions, partition)
        places = [(of, await _offset(broker, topic, of, before)) for of in chosen if of.served]
    return Plan(places, [of for of in chosen if not of.served])


async def _offset(broker: Admin, topic: str, of: PartitionDescription, before: Position) -> int:
    """The offset below which records go; one below the beginning is done already."""
    if isinstance(before, int):
        before = max(before, of.beginning_offset)
    return await offset_at(broker, topic, of, before)


def _question(topic: str, plan: Plan, before: Position) -> str:
    """What is to be removed, as a person is asked about it."""
    going = sum(min(offset - of.beginning_offset, of.record_count) for of, offset in plan.places)
    gaps = any(of.record_count < of.end_offset - of.beginning_offset for of, _ in plan.places)
    number = f"{'up to ' if gaps else ''}{counted(going, 'record')}"
    if isinstance(before, datetime):
        where = before.isoformat()
    else:
        where = f"offset {before}" if isinstance(before, int) else str(before).lower()
    return f"remove {number} of {topic}: all before {where}, in {counted(len(plan.places), 'partition')}"


async def _trimmed(server: Endpoint, topic: str, plan: Plan) -> tuple[list[Done], list[TakhinError]]:
    """Trim one partition after the other. A partition that fails holds up none; another failure ends it."""
    starts: dict[int, int] = {}
    errors: list[TakhinError] = []
    after: dict[int, PartitionDescription] = {}
    async with admin(server) as broker:
        try:
            for of, offset in plan.places:
                try:
                    start = await broker.delete_records(topic, of.partition, before_offset=offset)
                except PartitionUnavailableError as error:
                    errors.append(error)
                else:
                    starts[of.partition] = start
            after = {of.partition: of for of in (await broker.describe_topic(topic)).partitions}
        except TakhinError as error:  # what was trimmed before is told all the same
            errors.append(error)
    done = [
        Done(of.partition, starts[of.partition], of.end_offset, _removed(of, after.get(of.partition)))
        for of, _ in plan.places
        if of.partition in starts
    ]
    return done, errors


def _removed(before: PartitionDescription, after: PartitionDescription | None) -> int | None:
    """How many records went between two descriptions, whether or not the log has gaps."""
    if after is None or not after.served:
        return None
    return before.record_count + after.end_offset - before.end_offset - after.record_count
