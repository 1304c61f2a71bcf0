"""`takhin groups seek`: moves what a group reads next, after it has shown what that means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

import click

from takhin.cli.connection import admin, group_argument, run, server_option, topics_offered
from takhin.cli.ending_members import force_option, without_members
from takhin.cli.offsets import chosen_partitions, offset_at
from takhin.cli.output import json_option, print_json
from takhin.cli.positions import parse_single
from takhin.cli.rows import print_table
from takhin.client import END, START, Admin, CommittedOffset, PartitionDescription, Position, TopicPartition
from takhin.client.contexts import Endpoint
from takhin.errors import UnknownTopicError
from takhin.sentences import counted

OTHER_GROUP = "group:"
NAMES: Mapping[str, Position] = {"earliest": START, "latest": END}

Target: TypeAlias = "Position | str"
"""Where to go: a position, or the id of a group whose offsets are taken over."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What --topic names. partition: None for all."""

    topic: str
    partition: int | None


@dataclass(frozen=True, slots=True)
class Move:
    """A partition of a group before and after. before: None: nothing is committed."""

    at: TopicPartition
    before: int | None
    after: int

    @property
    def by(self) -> int | None:
        """How many offsets it moves forward, or back."""
        return None if self.before is None else self.after - self.before


def _target(_context: click.Context, _parameter: click.Parameter, text: str) -> Target:
    if text.startswith(OTHER_GROUP):
        return text.removeprefix(OTHER_GROUP)
    if text in NAMES:
        return NAMES[text]
    try:
        return parse_single(text, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(f"{error}, earliest, latest or group:OTHER") from None


def _chosen(_context: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> list[Chosen]:
    chosen = []
    for text in texts:
        topic, colon, partition = text.partition(":")
        if colon and not partition.isdecimal():
            raise click.BadParameter(f"give TOPIC or TOPIC:PARTITION, not {text!r}")
        chosen.append(Chosen(topic, int(partition) if colon else None))
    return chosen


@click.command(short_help="Move what a group reads next.")
@group_argument
@click.option(
    "--to",
    "target",
    required=True,
    callback=_target,
    metavar="POSITION",
    help="earliest, latest, an offset, @TIME, @-1h, -N (N offsets before the end), +N (after the start), or "
    "group:OTHER (what another group has committed).",
)
@click.option(
    "--topic",
    "chosen",
    multiple=True,
    callback=_chosen,
    metavar="TOPIC[:PARTITION]",
    shell_complete=topics_offered,
    help="Only there; may be repeated.  [default: wherever GROUP has committed something]",
)
@click.option(
    "-y", "--yes", is_flag=True, help="Do it. Without this the command only shows what it would do."
)
@force_option
@json_option
@server_option
def seek(
    group: str,
    *,
    target: Target,
    chosen: list[Chosen],
    yes: bool,
    force: bool,
    as_json: bool,
    server: Endpoint,
) -> None:
    """Show what GROUP would read next if it were moved; with --yes move it.

    It is refused while the group has members, which would go on where they are.

    \b
    takhin groups seek billing --to @-1h                 what an hour ago would mean
    takhin groups seek billing --to earliest --topic orders --yes
    takhin groups seek billing --to 17 --topic orders:0 --yes
    takhin groups seek billing-test --to group:billing --topic orders --yes
    """  # noqa: D301  click wants the character, to keep the lines that follow as they are

    async def moved() -> list[Move]:
        async with admin(server) as broker:
            moves = await _moves(broker, group, target, chosen)
            offsets = {(of.at.topic, of.at.partition): of.after for of in moves}
            if yes and offsets:
                await without_members(
                    broker, group, lambda: broker.commit_offsets(group, offsets), force=force
                )
            return moves

    moves = run(moved())
    if as_json:
        rows = [{**of.at._asdict(), "before": of.before, "after": of.after} for of in moves]
        print_json({"group_id": group, "done": yes, "partitions": rows})
        return
    print_table(
        ["topic", "partition", "before", "after", "moves by"],
        [(*of.at, "-" if of.before is None else of.before, of.after, _signed(of.by)) for of in moves],
    )
    where = f"{counted(len(moves), 'partition')} of group {group}"
    click.echo(f"moved {where}" if yes else f"nothing was done; --yes moves {where}")


def _signed(number: int | None) -> str:
    return "" if number is None else f"{number:+}"


async def _moves(broker: Admin, group: str, target: Target, chosen: Sequence[Chosen]) -> list[Move]:
    """Where the group is and would be. Raises UnknownGroupError, UnknownTopicError, UnknownPartitionError."""
    committed = await broker.committed_offsets(group)
    if not chosen and not committed:
        await broker.describe_group(group)  # raises if there is none
        raise click.ClickException(
            f"group {group} has committed nothing; give --topic to say where to move it"
        )
    described = await _described(broker, chosen, committed)
    if isinstance(target, str):
        others = await broker.committed_offsets(target, list(described))
        if not others:
            raise click.ClickException(f"group {target} has committed nothing in these partitions")
        after = {at: of.offset for at, of in others.items()}
    else:
        if isinstance(target, int) and len(described) > 1:
            raise click.BadParameter(
                "an offset is a position in one partition: give --topic TOPIC:PARTITION", param_hint="--to"
            )
        after = {at: await offset_at(broker, at.topic, of, target) for at, of in described.items()}
    return [Move(at, _offset(committed.get(at)), after[at]) for at in sorted(after)]


def _offset(committed: CommittedOffset | None) -> int | None:
    return None if committed is None else committed.offset


async def _described(
    broker: Admin, chosen: Sequence[Chosen], committed: Mapping[TopicPartition, CommittedOffset]
) -> dict[TopicPartition, PartitionDescription]:
    """The partitions that are to be moved."""
    names = [of.topic for of in chosen] or sorted({at.topic for at in committed})
    found = {of.name: of.partitions for of in await broker.describe_topics(dict.fromkeys(names))}
    for topic in names:
        if topic not in found:
            raise UnknownTopicError(topic)
    if not chosen:
        return {at: found[at.topic][at.partition] for at in committed}
    return {
        TopicPartition(of.topic, partition.partition): partition
        for of in chosen
        for partition in chosen_partitions(of.topic, found[of.topic], of.partition)
    }
