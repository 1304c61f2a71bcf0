"""`takhin serve`: flags for every setting, made from the tree. takhin.config and the server do the rest."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from takhin import config


def _setting_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add a flag for every setting. Values stay text, so that takhin.config checks them like all others."""
    for option in reversed(config.OPTIONS.values()):
        kind = "N" if isinstance(option.default, int) else "TEXT"
        flag = click.option(
            option.flag, _parameter(option), metavar=kind, help=f"{option.help}  [default: {option.default}]"
        )
        command = flag(command)
    return command


def _parameter(option: config.Option) -> str:
    return option.key.replace(".", "__")


@click.command(short_help="Run a broker.")
@click.option(
    "--config", "file", metavar="FILE", help=f"TOML file with settings  [variable: {config.CONFIG_VARIABLE}]"
)
@click.option("--print-config", is_flag=True, help="Print the settings and where each comes from, then exit.")
@_setting_flags
def serve(file: str | None, *, print_config: bool, **parameters: Any) -> None:
    """Run a broker until SIGTERM or SIGINT. It finishes what it has begun; a second signal ends it at once.

    A setting is taken from its flag, else from its variable (--log-level: TAKHIN_LOG_LEVEL), else from
    the TOML file (level in [log]), else from its default.
    """
    given = {key: parameters[_parameter(option)] for key, option in config.OPTIONS.items()}
    flags = {key: value for key, value in given.items() if value is not None}
    loaded = config.load(flags, os.environ, Path(file) if file is not None else None)
    if print_config:
        click.echo(loaded.as_toml(), nl=False)
        return
    # Only here, so that no other command loads SQLite.
    import uvloop  # noqa: PLC0415

    from takhin.server import run  # noqa: PLC0415

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(loaded.settings))
