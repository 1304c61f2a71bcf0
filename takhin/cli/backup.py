"""`takhin backup`: flags and words; the work is takhin.copies.backup's."""

from __future__ import annotations

import json
from pathlib import Path

import click

from takhin.cli.folders import data_dir_option
from takhin.cli.output import counted, json_option, print_json, progress_bar, sized


@click.command(short_help="Copy a data folder, also of a running broker.")
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path, file_okay=False))
@data_dir_option
@json_option
def backup(destination: Path, *, data_dir: Path, as_json: bool) -> None:
    """Copy the data folder of a running or stopped broker into DEST, a new or empty folder.

    Each partition is copied as of one moment, with all that was acknowledged before, and no committed offset
    ahead of the records. A run that was cut short is taken up by the same command again; DEST/backup.json
    says what is in the backup, and whether it is complete.
    """
    from takhin.copies.backup import backup as make_backup  # noqa: PLC0415  loads SQLite

    with progress_bar("backup") as progress:
        made = make_backup(data_dir, destination, progress=progress)
    if as_json:
        print_json(json.loads(made.as_json()))
        return
    for name in made.left_out:
        click.echo(f"left out topic {name}, which was deleted meanwhile")
    topics, partitions = counted(len(made.topics), "topic"), counted(len(made.partitions), "partition")
    click.echo(f"backed up {topics}, {partitions}, {sized(made.size_bytes())} to {destination}")
