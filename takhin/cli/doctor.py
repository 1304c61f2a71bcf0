"""`takhin doctor`: its options and its output; takhin.doctor does the work."""

from __future__ import annotations

import os
from pathlib import Path

import click

from takhin import config
from takhin.cli.output import json_option, print_json
from takhin.errors import StartupError
from takhin.settings import Settings


@click.command(short_help="Look at the disk, the machine and the data folder.")
@click.option(
    "--config", "file", metavar="FILE", help=f"The broker's settings  [variable: {config.CONFIG_VARIABLE}]"
)
@click.option("--data-dir", metavar="DATA", help=config.OPTIONS["data_dir"].help)
@json_option
@click.pass_context
def doctor(context: click.Context, *, file: str | None, data_dir: str | None, as_json: bool) -> None:
    """Look at what a broker with these settings has and needs, and say what to do about it.

    Its data folder and disk, permissions, leftovers, addresses, limits on open files, memory, clock, and
    libraries.
    Nothing is changed, and a broker may run meanwhile. Run it as the broker's user, with the broker's
    settings.

    Exit codes: 0 all is well; 1 there is a warning; 2 something is bad.
    """
    from takhin.doctor.examination import examine  # noqa: PLC0415  loads SQLite
    from takhin.doctor.findings import Finding, Level  # noqa: PLC0415

    flags = {} if data_dir is None else {"data_dir": data_dir}
    try:
        settings = config.load(flags, os.environ, Path(file) if file is not None else None).settings
        found = []
    except StartupError as error:
        do = "mend them, else no broker starts; the rest was looked at with the defaults"
        found = [Finding(Level.BAD, "settings", str(error), do)]
        settings = config.load(flags, {}, None).settings if flags else Settings()
    found += examine(settings)
    worst = max(finding.level for finding in found)
    if as_json:
        findings = [finding._asdict() | {"level": finding.level.name} for finding in found]
        print_json({"level": worst.name, "findings": findings})
    else:
        for finding in found:
            click.echo(f"{finding.level.name:4}  {finding.about}: {finding.what}")
            if finding.do:
                click.echo(f"      do: {finding.do}")
    context.exit(int(worst))
