"""`takhin health`: whether a broker serves everything, for people, scripts and containers."""

from __future__ import annotations

import click

from takhin.cli.connection import admin, server_option
from takhin.cli.output import json_option, print_json
from takhin.cli.signals import ending
from takhin.client import Health
from takhin.client.contexts import Endpoint
from takhin.client.errors import CallFailedError, NoAnswerError, UnreachableError
from takhin.errors import TakhinError

DEGRADED = 1
UNREACHABLE = 3
"""Exit codes, see docs/commands.md."""

NO_BROKER = (UnreachableError, NoAnswerError, CallFailedError)
"""Errors without an answer of a broker: nobody is there, nothing came back, or it was another program's."""


@click.command(short_help="Say whether a broker is healthy.")
@json_option
@server_option
@click.pass_context
def health(context: click.Context, *, as_json: bool, server: Endpoint) -> None:
    """Say whether the broker is healthy, and if not, what is wrong.

    Exit codes: 0 healthy; 1 degraded: something is wrong, and the broker serves the rest, or it answers but
    refuses to say how it is ("refused": overloaded, or stopping); 3 no broker answers ("unreachable").
    """

    async def asked() -> Health:
        async with admin(server) as broker:
            return await broker.health()

    try:
        found = ending.run(asked())
    except TakhinError as error:
        nobody = isinstance(error, NO_BROKER)
        if as_json:
            print_json({"status": "unreachable" if nobody else "refused", "reasons": [str(error)]})
        else:
            click.echo(f"takhin: {error}", err=True)
        context.exit(UNREACHABLE if nobody else DEGRADED)
    if as_json:
        print_json(found._asdict())
    else:
        click.echo(f"{found.status}: Takhin {found.version} at {server}, up for {found.uptime_seconds} s")
        for reason in found.reasons:
            click.echo(f"- {reason}")
    if found.status != "healthy":
        context.exit(DEGRADED)
