"""`takhin serve`: flags for every setting, made from the tree. takhin.config and the server do the rest."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from takhin import config
from takhin.kinds import Bool, ListOf


def add_flags(command: Callable[..., None], options: dict[str, config.Option]) -> Callable[..., None]:
    """Add a flag for every option. Values stay text, so that takhin.config checks them like all others."""
    for option in reversed(options.values()):
        default = f"  [default: {option.shown_default}]" if option.shown_default else ""
        # A bool may stand alone, as in --x, or say which, as in --x=false.
        switch: dict[str, Any] = {"is_flag": False, "flag_value": "true"}
        flag = click.option(
            option.flag,
            _parameter(option),
            metavar=option.kind.metavar,
            help=option.help + default,
            multiple=isinstance(option.kind, ListOf),
            **(switch if isinstance(option.kind, Bool) else {}),
        )
        command = flag(command)
    return command


def _parameter(option: config.Option) -> str:
    return option.key.replace(".", "__")


def given_flags(parameters: Mapping[str, Any], options: dict[str, config.Option]) -> dict[str, str]:
    """The flags that were given, as text by key. One that may be repeated gives a list with commas."""
    given: dict[str, str] = {}
    for key, option in options.items():
        value = parameters[_parameter(option)]
        if isinstance(value, tuple):
            value = ",".join(value) if value else None
        if value is not None:
            given[key] = value
    return given


@click.command(short_help="Run a broker.")
@click.option(
    "--config", "file", metavar="FILE", help=f"TOML file with settings  [variable: {config.CONFIG_VARIABLE}]"
)
@click.option(
    "--strict", is_flag=True, help="Refuse to start if a partition cannot be served: --storage-strict."
)
@click.option("--print-config", is_flag=True, help="Print the settings and where each comes from, then exit.")
@partial(add_flags, options=config.OPTIONS)
def serve(file: str | None, *, strict: bool, print_config: bool, **parameters: Any) -> None:
    """Run a broker until SIGTERM or SIGINT. It finishes what it has begun; a second signal ends it at once.

    A setting is taken from its flag, else from its variable (--log-level: TAKHIN_LOG_LEVEL), else from
    the TOML file (level in [log]), else from its default.
    """
    given = {"storage.strict": "true"} if strict else {}
    given |= given_flags(parameters, config.OPTIONS)
    loaded = config.load(given, os.environ, Path(file) if file is not None else None)
    if print_config:
        click.echo(loaded.as_toml(), nl=False)
        return
    # Only here, so that no other command loads SQLite.
    import uvloop  # noqa: PLC0415

    from takhin.process import run  # noqa: PLC0415

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(loaded.settings))
