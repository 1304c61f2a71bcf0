"""`takhin topics trim`: removes the oldest records of a topic."""

from __future__ import annotations

import click

from takhin.cli.connection import admin, partition_option, run, server_option, topic_argument
from takhin.cli.offsets import chosen_partitions, offset_at, single_position
from takhin.cli.output import confirm, counted, json_option, print_json, yes_option
from takhin.cli.positions import FORMS
from takhin.cli.rows import print_table
from takhin.client import Admin, PartitionDescription, Position

Trimmed = tuple[PartitionDescription, int]
"""A partition as it was, and where it begins now."""


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
def trim(
    topic: str, *, before: Position, partition: int | None, yes: bool, as_json: bool, server: str
) -> None:
    """Remove the oldest records of TOPIC from each of its partitions, for good."""
    confirm(f"remove the oldest records of {topic}", yes=yes)

    async def trimmed() -> list[Trimmed]:
        async with admin(server) as broker:
            return await _trimmed(broker, topic, partition, before)

    found = run(trimmed())
    titles = ["partition", "beginning", "end", "removed"]
    rows = [(of.partition, start, of.end_offset, start - of.beginning_offset) for of, start in found]
    if as_json:
        print_json([dict(zip(titles, row, strict=True)) for row in rows])
    else:
        print_table(titles, rows)
        click.echo(f"removed {counted(sum(row[-1] for row in rows), 'record')} of {topic}")


async def _trimmed(broker: Admin, topic: str, partition: int | None, before: Position) -> list[Trimmed]:
    described = await broker.describe_topic(topic)
    chosen = chosen_partitions(topic, described.partitions, partition)
    # All positions are looked up before anything is removed: a bad one removes nothing.
    offsets = [await _offset(broker, topic, of, before) for of in chosen]
    return [
        (of, await broker.delete_records(topic, of.partition, before_offset=offset))
        for of, offset in zip(chosen, offsets, strict=True)
    ]


async def _offset(broker: Admin, topic: str, of: PartitionDescription, before: Position) -> int:
    """The offset below which records go; one below the beginning is done already."""
    if isinstance(before, int):
        before = max(before, of.beginning_offset)
    return await offset_at(broker, topic, of, before)
