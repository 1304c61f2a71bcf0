"""`takhin health`: whether a broker serves everything, for people, scripts and containers."""

from __future__ import annotations

import asyncio

import click

from takhin.cli.connection import admin, server_option
from takhin.cli.output import json_option, print_json
from takhin.client import Health
from takhin.errors import TakhinError

DEGRADED = 1
UNREACHABLE = 3
"""Exit codes, see docs/commands.md."""


@click.command(short_help="Say whether a broker is healthy.")
@json_option
@server_option
@click.pass_context
def health(context: click.Context, *, as_json: bool, server: str) -> None:
    """Say whether the broker is healthy, and if not, what is wrong.

    Exit codes: 0 healthy; 1 degraded: something is wrong, and the broker serves the rest; 3 no broker
    answers.
    """

    async def asked() -> Health:
        async with admin(server) as broker:
            return await broker.health()

    try:
        found = asyncio.run(asked())
    except TakhinError as error:
        if as_json:
            print_json({"status": "unreachable", "reasons": [str(error)]})
        else:
            click.echo(f"takhin: {error}", err=True)
        context.exit(UNREACHABLE)
    if as_json:
        print_json(found._asdict())
    else:
        click.echo(f"{found.status}: Takhin {found.version} at {server}, up for {found.uptime_seconds} s")
        for reason in found.reasons:
            click.echo(f"- {reason}")
    if found.status != "healthy":
        context.exit(DEGRADED)
