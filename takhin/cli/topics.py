"""`takhin topics`: creates, lists, describes and deletes topics."""

from __future__ import annotations

from typing import Any

import click

from takhin.cli.connection import admin, run, server_option, topics_offered
from takhin.cli.names import Suggesting
from takhin.cli.output import confirm, counted, json_option, print_json, yes_option
from takhin.cli.rows import print_table
from takhin.client import PartitionDescription, TopicDescription
from takhin.settings import INT32_MAX

UNKNOWN = ("?", "?", "?")
"""Both ends and the number of records of a partition that is not served."""


@click.group(cls=Suggesting, no_args_is_help=False)
def topics() -> None:
    """Create, list, describe and delete topics."""


@topics.command()
@click.argument("name")
@click.option("--partitions", type=click.IntRange(1, INT32_MAX), default=1, metavar="N", help="[default: 1]")
@click.option("--config", "configs", multiple=True, metavar="KEY=VALUE", help="A config; may be repeated.")
@json_option
@server_option
def create(name: str, *, partitions: int, configs: tuple[str, ...], as_json: bool, server: str) -> None:
    """Create topic NAME."""
    pairs = _pairs(configs)

    async def created() -> TopicDescription:
        async with admin(server) as broker:
            await broker.create_topic(name, partitions=partitions, configs=pairs)
            return await broker.describe_topic(name)

    topic = run(created())
    if as_json:
        print_json(_document(topic))
    else:
        click.echo(f"created topic {name} with {counted(partitions, 'partition')}")


def _pairs(configs: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for config in configs:
        key, equals, value = config.partition("=")
        if not equals:
            raise click.BadParameter(f"{config!r} is not KEY=VALUE", param_hint="--config")
        if key in pairs:
            raise click.BadParameter(f"{key} is given twice", param_hint="--config")
        pairs[key] = value
    return pairs


@topics.command("list")
@json_option
@server_option
def list_(*, as_json: bool, server: str) -> None:
    """List all topics, with how many partitions and records each has."""
    found = run(_described(server, ()))
    if as_json:
        print_json([_document(topic) for topic in found])
    else:
        print_table(
            ["topic", "partitions", "records"],
            [(topic.name, len(topic.partitions), _total(topic)) for topic in found],
        )


@topics.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=topics_offered)
@json_option
@server_option
def describe(names: tuple[str, ...], *, as_json: bool, server: str) -> None:
    """Describe the topics with these NAMEs, or all: configs, and the offsets of every partition.

    It says why a partition is not served, if one is not; its offsets are not certain then.
    """
    found = run(_described(server, names))
    if as_json:
        print_json([_document(topic) for topic in found])
    else:
        for topic in found:
            _show(topic)
    # A topic that was listed but is gone by now is not an error; one that was asked for by name is.
    unknown = sorted(set(names) - {topic.name for topic in found})
    if unknown:
        raise click.ClickException(f"there is no topic {', '.join(map(repr, unknown))}")


async def _described(server: str, names: tuple[str, ...]) -> list[TopicDescription]:
    """Describe those of `names` that exist, or all topics if there are no names."""
    async with admin(server) as broker:
        return await broker.describe_topics(names or await broker.list_topics())


def _show(topic: TopicDescription) -> None:
    configs = "  ".join(f"{key}={value}" for key, value in sorted(topic.configs.items()))
    click.echo(f"{topic.name}  partitions={len(topic.partitions)}  id={topic.topic_id}  {configs}")
    print_table(
        ["partition", "beginning", "end", "records"],
        [
            (of.partition, of.beginning_offset, of.end_offset, _records(of))
            if of.served
            else (of.partition, *UNKNOWN)
            for of in topic.partitions
        ],
    )
    for of in topic.partitions:
        if not of.served:
            click.echo(of.unavailable_reason)


def _records(of: PartitionDescription) -> int:
    """The number of records of a partition, whose offsets are dense."""
    return of.end_offset - of.beginning_offset


def _total(topic: TopicDescription) -> int | str:
    """The number of a topic's records; "?" if a partition is not served, as nobody knows then."""
    served = all(of.served for of in topic.partitions)
    return sum(map(_records, topic.partitions)) if served else "?"


def _document(topic: TopicDescription) -> dict[str, Any]:
    return topic._asdict() | {
        "configs": dict(topic.configs),
        "partitions": [of._asdict() for of in topic.partitions],
    }


@topics.command()
@click.argument("name", shell_complete=topics_offered)
@yes_option
@json_option
@server_option
def delete(name: str, *, yes: bool, as_json: bool, server: str) -> None:
    """Delete topic NAME and all its records."""
    confirm(f"delete topic {name} and all its records", yes=yes)

    async def deleted() -> None:
        async with admin(server) as broker:
            await broker.delete_topic(name)

    run(deleted())
    if as_json:
        print_json({"deleted": name})
    else:
        click.echo(f"deleted topic {name}")
