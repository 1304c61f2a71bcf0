"""`takhin groups`: consumer groups, who shares their work, and how far behind they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

import click

from takhin.cli.connection import admin, group_argument, run, server_option, topics_argument
from takhin.cli.ending_members import force_option, without_members
from takhin.cli.names import Suggesting
from takhin.cli.output import age, confirm, json_option, print_json, time_text, yes_option
from takhin.cli.rows import print_table
from takhin.cli.seek import seek
from takhin.client import (
    Admin,
    GroupDescription,
    GroupListing,
    GroupMember,
    PartitionDescription,
    TopicPartition,
)
from takhin.client.contexts import Endpoint

WATCH_S = 1.0
"""Between two looks of --watch."""
ID_CHARS = 8
"""Of a member's id where nothing else names the member."""

TITLES = ("topic", "partition", "committed", "end", "lag", "behind", "owner", "committed at", "metadata")

Logs = Mapping[TopicPartition, PartitionDescription]


@click.group(cls=Suggesting, no_args_is_help=False)
def groups() -> None:
    """List, describe, move and delete consumer groups."""


groups.add_command(seek)


@groups.command("list")
@json_option
@server_option
def list_(*, as_json: bool, server: Endpoint) -> None:
    """List all groups that have members or committed offsets, and how many records each has yet to read."""

    async def listed() -> list[GroupListing]:
        async with admin(server) as broker:
            return await broker.list_groups()

    found = run(listed())
    if as_json:
        print_json([of._asdict() for of in found])
    else:
        print_table(["group", "state", "members", "lag"], found)


@groups.command()
@group_argument
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@json_option
@server_option
def describe(group: str, *, watch: bool, as_json: bool, server: Endpoint) -> None:
    """Show who reads the partitions of GROUP, what it has committed, and its lag.

    The lag is how many records the group has yet to read; --watch also shows how old the oldest of them is.
    """

    async def described() -> None:
        async with admin(server) as broker:
            while True:
                found = await broker.describe_group(group)
                logs = {} if as_json else await _uncommitted(broker, found)
                if watch and as_json:
                    click.echo(json.dumps(_document(found), ensure_ascii=False))
                elif as_json:
                    print_json(_document(found))
                else:
                    _show(found, logs, again=watch)
                if not watch:
                    return
                await asyncio.sleep(WATCH_S)

    run(described())


def _document(found: GroupDescription) -> dict[str, Any]:
    members = [of._asdict() | {"partitions": [at._asdict() for at in of.partitions]} for of in found.members]
    return found._asdict() | {"offsets": [of._asdict() for of in found.offsets], "members": members}


async def _uncommitted(broker: Admin, found: GroupDescription) -> Logs:
    """The partitions that members read without having committed anything there."""
    committed = {TopicPartition(of.topic, of.partition) for of in found.offsets}
    missing = {at for member in found.members for at in member.partitions} - committed
    if not missing:
        return {}
    return {
        at: of
        for topic in await broker.describe_topics(sorted({at.topic for at in missing}))
        for of in topic.partitions
        if (at := TopicPartition(topic.name, of.partition)) in missing
    }


def _show(found: GroupDescription, logs: Logs, *, again: bool) -> None:
    """Print the partitions, with their owners if there are any, and the members.

    again: it is shown every second, so how old the oldest unread record is belongs to it, too.
    """
    if again:
        click.clear()
    names = {of.member_id: _name(of) for of in found.members}
    owners = {at: names[of.member_id] for of in found.members for at in of.partitions}
    rows = [
        {
            "topic": of.topic,
            "partition": of.partition,
            "committed": of.committed_offset,
            "end": of.end_offset,
            "lag": of.lag,
            "behind": age(of.lag_ms),
            "owner": owners.get(TopicPartition(of.topic, of.partition), "-"),
            "committed at": time_text(of.committed_at),
            "metadata": of.metadata,
        }
        for of in found.offsets
    ]
    for (topic, partition), of in logs.items():
        row = {"topic": topic, "partition": partition, "end": of.end_offset, "metadata": ""}
        row |= {"lag": of.end_offset - of.beginning_offset, "owner": owners[TopicPartition(topic, partition)]}
        rows.append(row)
    shown = {"behind": again, "owner": bool(found.members)}
    titles = [name for name in TITLES if shown.get(name, True)]
    rows.sort(key=itemgetter("topic", "partition"))
    print_table(titles, [[row.get(name, "-") for name in titles] for row in rows])
    if found.members:
        click.echo()
        _show_members(found.members)
        click.echo(f"\n{found.state}, epoch {found.epoch}, {found.assignor}")


def _show_members(members: Iterable[GroupMember]) -> None:
    print_table(
        ["member", "state", "partitions", "host", "joined at", "last commit at"],
        [
            (
                _name(of),
                of.state,
                len(of.partitions),
                of.client_host,
                time_text(of.joined_at),
                time_text(of.last_commit_at or -1),
            )
            for of in members
        ],
    )


def _name(member: GroupMember) -> str:
    """What a person calls a member: its instance, else its client id and the beginning of its own."""
    if member.instance_id:
        return member.instance_id
    return " ".join(filter(None, [member.client_id, member.member_id[:ID_CHARS]]))


@groups.command()
@group_argument
@yes_option
@force_option
@json_option
@server_option
def delete(group: str, *, yes: bool, force: bool, as_json: bool, server: Endpoint) -> None:
    """Delete GROUP and all offsets that it has committed. It is refused while the group has members."""
    confirm(f"delete group {group} and its offsets", yes=yes)

    async def deleted() -> None:
        async with admin(server) as broker:
            await without_members(broker, group, lambda: broker.delete_group(group), force=force)

    run(deleted())
    if as_json:
        print_json({"deleted": group})
    else:
        click.echo(f"deleted group {group}")


@groups.command("delete-offsets")
@group_argument
@topics_argument
@yes_option
@force_option
@json_option
@server_option
def delete_offsets(
    group: str, topics: tuple[str, ...], *, yes: bool, force: bool, as_json: bool, server: Endpoint
) -> None:
    """Delete the offsets that GROUP has committed in each TOPIC.

    It is refused while a member subscribes to one of them, and if one of them does not exist.
    """
    if not topics:
        raise click.UsageError("Missing argument 'TOPIC...'.", click.get_current_context())
    named = ", ".join(topics)
    confirm(f"delete the offsets of group {group} in {named}", yes=yes)

    async def deleted() -> set[str]:
        async with admin(server) as broker:
            committed = {at.topic for at in await broker.committed_offsets(group)}
            await without_members(broker, group, lambda: broker.delete_offsets(group, topics), force=force)
            return committed

    committed = run(deleted())
    deleted_in = [topic for topic in topics if topic in committed]
    others = [topic for topic in topics if topic not in committed]
    if as_json:
        print_json({"group_id": group, "deleted": deleted_in})
        return
    if deleted_in:
        click.echo(f"deleted the offsets of group {group} in {', '.join(deleted_in)}")
    if others:
        click.echo(f"group {group} had committed nothing in {', '.join(others)}")
