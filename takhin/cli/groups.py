"""`takhin groups`: consumer groups and how far behind they are."""

from __future__ import annotations

import click

from takhin.cli.connection import admin, group_argument, run, server_option
from takhin.cli.names import Suggesting
from takhin.cli.output import confirm, json_option, print_json, time_text, yes_option
from takhin.cli.rows import print_table
from takhin.client import GroupDescription, GroupListing


@click.group(cls=Suggesting, no_args_is_help=False)
def groups() -> None:
    """List, describe and delete consumer groups."""


@groups.command("list")
@json_option
@server_option
def list_(*, as_json: bool, server: str) -> None:
    """List all groups that have members or have committed offsets."""

    async def listed() -> list[GroupListing]:
        async with admin(server) as broker:
            return await broker.list_groups()

    found = run(listed())
    if as_json:
        print_json([of._asdict() for of in found])
    else:
        print_table(["group", "state", "members"], found)


@groups.command()
@group_argument
@json_option
@server_option
def describe(group: str, *, as_json: bool, server: str) -> None:
    """Show the offsets that GROUP has committed, and its lag: how many records it has yet to read."""

    async def described() -> GroupDescription:
        async with admin(server) as broker:
            return await broker.describe_group(group)

    found = run(described())
    if as_json:
        print_json(found._asdict() | {"offsets": [of._asdict() for of in found.offsets]})
        return
    rows = [
        (
            of.topic,
            of.partition,
            of.committed_offset,
            of.end_offset,
            of.lag,
            time_text(of.committed_at),
            of.metadata,
        )
        for of in found.offsets
    ]
    print_table(["topic", "partition", "committed", "end", "lag", "committed at", "metadata"], rows)


@groups.command()
@group_argument
@yes_option
@json_option
@server_option
def delete(group: str, *, yes: bool, as_json: bool, server: str) -> None:
    """Delete GROUP and all offsets that it has committed."""
    confirm(f"delete group {group} and its offsets", yes=yes)

    async def deleted() -> None:
        async with admin(server) as broker:
            await broker.delete_group(group)

    run(deleted())
    if as_json:
        print_json({"deleted": group})
    else:
        click.echo(f"deleted group {group}")
