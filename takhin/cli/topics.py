"""`takhin topics`: creates, lists, describes, alters, trims, compacts and deletes topics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

from takhin import topic_configs
from takhin.cli.compact import compact
from takhin.cli.connection import admin, run, server_option, topics_offered
from takhin.cli.names import Suggesting
from takhin.cli.output import confirm, json_option, print_json, time_text, yes_option
from takhin.cli.rates import Rates, described_with_rates, rate_in, rate_option
from takhin.cli.rows import print_table
from takhin.cli.trim import trim
from takhin.client import PartitionDescription, TopicConfigEntry, TopicDescription
from takhin.client.contexts import Endpoint
from takhin.errors import InvalidArgumentError, UnknownTopicError
from takhin.sentences import counted, sized
from takhin.settings import INT32_MAX

UNKNOWN = "?"
"""What is not certain: ends, times and the number of records where a partition is not served, and the configs
where that is partition 0."""


@click.group(cls=Suggesting, no_args_is_help=False)
def topics() -> None:
    """Create, list, describe, alter, trim, compact and delete topics."""


topics.add_command(trim)
topics.add_command(compact)


@topics.command()
@click.argument("name")
@click.option("--partitions", type=click.IntRange(1, INT32_MAX), default=1, metavar="N", help="[default: 1]")
@click.option("--config", "configs", multiple=True, metavar="KEY=VALUE", help="A config; may be repeated.")
@json_option
@server_option
def create(name: str, *, partitions: int, configs: tuple[str, ...], as_json: bool, server: Endpoint) -> None:
    """Create topic NAME."""
    pairs = _pairs(configs, "--config")

    async def created() -> tuple[list[str], TopicDescription]:
        async with admin(server) as broker:
            with _partitions_refused():
                warnings = await broker.create_topic(name, partitions=partitions, configs=pairs)
            return warnings, await broker.describe_topic(name)

    warnings, topic = run(created())
    _warn(warnings)
    if as_json:
        print_json(_document(topic) | {"warnings": warnings})
    else:
        click.echo(f"created topic {name} with {counted(partitions, 'partition')}")


@contextmanager
def _partitions_refused() -> Iterator[None]:
    """A number out of range is --partitions: a create or alter call of a command has no other number."""
    try:
        yield
    except InvalidArgumentError as error:
        raise click.BadParameter(str(error), param_hint="--partitions") from None


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        click.echo(f"takhin: warning: {warning}", err=True)


def _pairs(configs: tuple[str, ...], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for config in configs:
        key, equals, value = config.partition("=")
        if not equals:
            raise click.BadParameter(f"{config!r} is not KEY=VALUE", param_hint=option)
        if key in pairs:
            raise click.BadParameter(f"{key} is given twice", param_hint=option)
        pairs[key] = value
    return pairs


@topics.command("list")
@rate_option
@json_option
@server_option
def list_(*, rate_seconds: float | None, as_json: bool, server: Endpoint) -> None:
    """List all topics: partitions, records, size, and the times of the oldest and newest records."""
    found, rates = run(_described(server, (), rate_seconds))
    if as_json:
        print_json([_document(topic, rates) for topic in found])
    else:
        print_table(
            ["topic", "partitions", *_titles(rates)],
            [(topic.name, len(topic.partitions), *_in_all(topic.partitions, rates)) for topic in found],
        )


def _titles(rates: Rates | None) -> list[str]:
    """What `_in_all` returns."""
    return ["records", "size", "oldest", "newest", *([] if rates is None else ["records/s"])]


def _in_all(partitions: Sequence[PartitionDescription], rates: Rates | None) -> tuple[int | float | str, ...]:
    """Records, size, oldest and newest record, rate of some partitions; "?" for what is not certain.

    Oldest: of those that stand first in their partitions.
    """
    rate = () if rates is None else (rate_in(partitions, rates),)
    return *_sums(partitions), *(UNKNOWN if of is None else of for of in rate)


def _sums(partitions: Sequence[PartitionDescription]) -> tuple[int | str, str, str, str]:
    sizes = [of.size_bytes for of in partitions]
    size = UNKNOWN if min(sizes, default=0) < 0 else sized(sum(sizes))
    if not all(of.served for of in partitions):
        return UNKNOWN, size, UNKNOWN, UNKNOWN
    firsts = [of.first_timestamp for of in partitions if of.first_timestamp >= 0]
    lasts = [of.last_timestamp for of in partitions if of.last_timestamp >= 0]
    records = sum(of.record_count for of in partitions)
    return records, size, time_text(min(firsts, default=-1)), time_text(max(lasts, default=-1))


@topics.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=topics_offered)
@click.option("--configs", is_flag=True, help="Show every config: its value, and who says so.")
@rate_option
@json_option
@server_option
def describe(
    names: tuple[str, ...], *, configs: bool, rate_seconds: float | None, as_json: bool, server: Endpoint
) -> None:
    """Describe the topics with these NAMEs, or all: configs, and the offsets of every partition.

    It says why a partition is not served, if one is not; its offsets are not certain then.
    """
    found, rates = run(_described(server, names, rate_seconds))
    entries = run(_configs(server, found)) if configs else {}
    if as_json:
        print_json(
            [
                _document(topic, rates) | {"configs": [of._asdict() for of in entries[topic.name]]}
                if topic.name in entries
                else _document(topic, rates)
                for topic in found
            ]
        )
    else:
        for topic in found:
            _show(topic, entries.get(topic.name), rates)
    # A topic that was listed but is gone by now is not an error; one that was asked for by name is.
    unknown = sorted(set(names) - {topic.name for topic in found})
    if unknown:
        raise click.ClickException(f"there is no topic {', '.join(map(repr, unknown))}")


async def _described(
    server: Endpoint, names: tuple[str, ...], rate_seconds: float | None
) -> tuple[list[TopicDescription], Rates | None]:
    """Describe those of `names` that exist, or all topics if there are no names; their rates if asked for."""
    async with admin(server) as broker:
        asked = names or await broker.list_topics()
        if rate_seconds is not None:
            return await described_with_rates(broker, asked, rate_seconds)
        return await broker.describe_topics(asked), None


async def _configs(
    server: Endpoint, topics: Iterable[TopicDescription]
) -> dict[str, Sequence[TopicConfigEntry]]:
    """The configs of topics by name; none where nobody knows them. A topic that is gone is left out."""
    entries: dict[str, Sequence[TopicConfigEntry]] = {}
    async with admin(server) as broker:
        for topic in topics:
            with suppress(UnknownTopicError):
                known = topic.configs
                entries[topic.name] = await broker.describe_configs(topic.name) if known else []
    return entries


def _show(topic: TopicDescription, entries: Sequence[TopicConfigEntry] | None, rates: Rates | None) -> None:
    """Print a topic. Without `entries`, its configs are those that are not at their defaults."""
    shown = [f"partitions={len(topic.partitions)}", f"id={topic.topic_id}"]
    if not topic.configs:
        shown.append(f"configs={UNKNOWN}")
    if entries is None:
        defaults = topic_configs.as_texts(topic_configs.DEFAULTS)
        set_ = sorted((key, value) for key, value in topic.configs.items() if value != defaults.get(key))
        shown += [f"{key}={value}" for key, value in set_]
    click.echo("  ".join((topic.name, *shown)))
    if entries:
        print_table(["config", "value", "origin", "what it is"], entries)
    print_table(
        ["partition", "beginning", "end", *_titles(rates)],
        [
            (
                of.partition,
                *((of.beginning_offset, of.end_offset) if of.served else (UNKNOWN, UNKNOWN)),
                *_in_all([of], rates),
            )
            for of in topic.partitions
        ],
    )
    for of in topic.partitions:
        if not of.served:
            click.echo(of.unavailable_reason)


def _document(topic: TopicDescription, rates: Rates | None = None) -> dict[str, Any]:
    return topic._asdict() | {
        "configs": dict(topic.configs),
        "partitions": [
            of._asdict() | ({} if rates is None else {"records_per_s": rate_in([of], rates)})
            for of in topic.partitions
        ],
    }


@topics.command()
@click.argument("name", shell_complete=topics_offered)
@click.option(
    "--set", "configs", multiple=True, metavar="KEY=VALUE", help="Set a config of the topic; may be repeated."
)
@click.option(
    "--reset",
    multiple=True,
    metavar="KEY",
    help="Let a config follow the broker's settings again; may be repeated.",
)
@click.option(
    "--partitions",
    type=click.IntRange(1, INT32_MAX),
    metavar="N",
    help="Have N partitions. Their number only grows, and most keys belong to another one then.",
)
@json_option
@server_option
def alter(
    name: str,
    *,
    configs: tuple[str, ...],
    reset: tuple[str, ...],
    partitions: int | None,
    as_json: bool,
    server: Endpoint,
) -> None:
    """Change topic NAME: all that is asked for, or nothing."""
    pairs = _pairs(configs, "--set")
    if not pairs and not reset and partitions is None:
        raise click.UsageError("there is nothing to change: give --set, --reset or --partitions")

    async def altered() -> tuple[list[str], TopicDescription]:
        async with admin(server) as broker:
            with _partitions_refused():
                warnings = await broker.alter_topic(name, configs=pairs, reset=reset, partitions=partitions)
            return warnings, await broker.describe_topic(name)

    warnings, topic = run(altered())
    _warn(warnings)
    if as_json:
        print_json(_document(topic) | {"warnings": warnings})
    else:
        click.echo(f"altered topic {name}")


@topics.command()
@click.argument("name", shell_complete=topics_offered)
@yes_option
@json_option
@server_option
def delete(name: str, *, yes: bool, as_json: bool, server: Endpoint) -> None:
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
