"""Where `takhin tokens` and `takhin access` find what they change: in a data folder, or at a broker."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from takhin.cli.connection import server_option
from takhin.config import SERVER_VARIABLE
from takhin.disk.access import limit_readers
from takhin.settings import AccessSettings, Settings

_data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="TAKHIN_DATA_DIR",
    default=Settings().data_dir,
    metavar="DATA",
    help="Work on this data folder, and not at a broker.  [variable: TAKHIN_DATA_DIR]",
)


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --data-dir and --server; the command gets both, and asks `chosen_folder`."""
    return _data_dir_option(server_option(command))


def chosen_folder(data_dir: Path) -> Path | None:
    """The data folder if it is what the command is to work on; None: the broker at --server.

    Flags come before variables, and --server before --data-dir if neither is given.
    """
    context = click.get_current_context()
    sources = {name: context.get_parameter_source(name) for name in ("data_dir", "server", "broker_context")}
    flags = {name for name, source in sources.items() if source is ParameterSource.COMMANDLINE}
    if "data_dir" in flags and len(flags) > 1:
        raise click.UsageError("give --data-dir or --server, not both", context)
    if flags:
        return data_dir if "data_dir" in flags else None
    if any(os.environ.get(name) for name in (SERVER_VARIABLE, "TAKHIN_CONTEXT")):
        return None
    return data_dir if sources["data_dir"] is ParameterSource.ENVIRONMENT else None


def opened(folder: Path, *, make: bool = False) -> Any:
    """The folder's tokens and rules, to be closed; made if they are missing and that is wanted.

    Raises StartupError.
    """
    from takhin.disk.access_file import AccessFile  # noqa: PLC0415  so that no other command loads SQLite

    limit_readers("owner")
    file = AccessFile(folder)
    file.open(make=make)
    return file


LIMITS = AccessSettings()
"""The limits on what is changed in a folder: those of a broker that has no settings of its own."""
