"""`takhin topics compact`: removes records that later ones supersede."""

from __future__ import annotations

import click

from takhin.cli.connection import admin, run, server_option, topic_argument
from takhin.cli.output import json_option, print_json
from takhin.client.contexts import Endpoint
from takhin.sentences import counted

PASS_MS_MAX = 3_600_000
"""How long the command waits. The broker goes on after that; the command, started again, waits again."""


@click.command()
@topic_argument
@json_option
@server_option
def compact(topic: str, *, as_json: bool, server: Endpoint) -> None:
    """Compact TOPIC now: keep the last record of each key. Its cleanup.policy must say compact.

    The broker does that by itself, by the topic's configs; this waits until it is done.
    """

    async def compacted() -> int:
        async with admin(server, timeout_ms=PASS_MS_MAX) as broker:
            return await broker.compact_topic(topic)

    removed = run(compacted())
    if as_json:
        print_json({"topic": topic, "removed": removed})
    else:
        click.echo(f"removed {counted(removed, 'record')} of {topic}")
