"""`takhin backup`: its options and its output; takhin.copies.backup does the work."""

from __future__ import annotations

import json
from pathlib import Path

import click

from takhin.cli.folders import data_dir_option, readers_option
from takhin.cli.output import json_option, print_json, progress_bar
from takhin.sentences import counted, sized


@click.command(short_help="Back up a data folder, even of a running broker.")
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path, file_okay=False))
@data_dir_option
@readers_option
@json_option
def backup(destination: Path, *, data_dir: Path, as_json: bool) -> None:
    """Copy the data folder of a running or stopped broker into DEST, a new or empty folder.

    Each partition is copied as of one moment: with everything acknowledged before it, and with no committed
    offset beyond its records. If a run is cut short, run the same command again to continue it.
    DEST/backup.json says what is in the backup, and whether it is complete.
    """
    from takhin.copies.backup import backup as make_backup  # noqa: PLC0415  loads SQLite

    with progress_bar("backup") as progress:
        made = make_backup(data_dir, destination, progress=progress)
    if as_json:
        print_json(json.loads(made.as_json()))
        return
    for name in made.left_out:
        click.echo(f"left out topic {name}, which was deleted during the backup")
    topics, partitions = counted(len(made.topics), "topic"), counted(len(made.partitions), "partition")
    click.echo(f"backed up {topics}, {partitions}, {sized(made.size_bytes())} to {destination}")
