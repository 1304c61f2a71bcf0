"""`takhin topics`: create, list, describe and delete."""

from __future__ import annotations

import click

from takhin.cli.connection import CALL_SECONDS_MAX, check, connected, counted, server_option
from takhin.settings import INT32_MAX
from takhin.v1 import takhin_pb2 as pb


@click.group(no_args_is_help=False)
def topics() -> None:
    """Create, list, describe and delete topics."""


@topics.command()
@click.argument("name")
@click.option("--partitions", type=click.IntRange(1, INT32_MAX), default=1, metavar="N", help="[default: 1]")
@click.option("--config", "configs", multiple=True, metavar="KEY=VALUE", help="A config; may be repeated.")
@server_option
def create(name: str, *, partitions: int, configs: tuple[str, ...], server: str) -> None:
    """Create topic NAME."""
    request = pb.CreateTopicRequest(name=name, num_partitions=partitions, configs=_pairs(configs))
    with connected(server) as stub:
        check(stub.CreateTopic(request, timeout=CALL_SECONDS_MAX))
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
@server_option
def list_(*, server: str) -> None:
    """List the names of all topics."""
    with connected(server) as stub:
        for name in stub.ListTopics(pb.ListTopicsRequest(), timeout=CALL_SECONDS_MAX).topics:
            click.echo(name)


@topics.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@server_option
def describe(names: tuple[str, ...], *, server: str) -> None:
    """Describe the topics of these NAMEs, or all: configs and the offsets of every partition."""
    with connected(server) as stub:
        asked = names or stub.ListTopics(pb.ListTopicsRequest(), timeout=CALL_SECONDS_MAX).topics
        request = pb.DescribeTopicsRequest(topics=asked)
        found = stub.DescribeTopics(request, timeout=CALL_SECONDS_MAX).topics
        for topic in found:
            click.echo("\n".join(_lines(topic)))
    # A topic that was listed and is gone by now is no error; one that was asked for by name is.
    unknown = sorted(set(names) - {topic.name for topic in found})
    if unknown:
        raise click.ClickException(f"there is no topic {', '.join(map(repr, unknown))}")


def _lines(topic: pb.TopicInfo) -> list[str]:
    configs = "  ".join(f"{key}={value}" for key, value in sorted(topic.configs.items()))
    lines = [
        f"{topic.name}  partitions={topic.num_partitions}  id={topic.topic_id}  {configs}",
        f"  {'partition':>9}  {'beginning':>19}  {'end':>19}",
    ]
    for number, of in sorted(topic.partitions.items()):
        lines.append(f"  {number:>9}  {of.beginning_offset:>19}  {of.end_offset:>19}")
    return lines


@topics.command()
@click.argument("name")
@server_option
def delete(name: str, *, server: str) -> None:
    """Delete topic NAME with all its records."""
    with connected(server) as stub:
        check(stub.DeleteTopic(pb.DeleteTopicRequest(name=name), timeout=CALL_SECONDS_MAX))
    click.echo(f"deleted topic {name}")
