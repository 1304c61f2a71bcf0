"""`takhin restore`: its options and its output; takhin.copies.restore does the work."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from takhin.cli.folders import (
    check_chosen,
    check_user,
    data_dir_option,
    partition_option,
    readers_option,
    topic_option,
)
from takhin.cli.output import json_option, print_json, progress_bar
from takhin.sentences import counted


@click.command(short_help="Restore a backup.")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@data_dir_option
@topic_option
@partition_option
@click.option(
    "--replace", is_flag=True, help="Move what is there to DATA/aside, and put the copy in its place."
)
@readers_option
@json_option
def restore(
    source: Path, *, data_dir: Path, topic: str | None, partition: int | None, replace: bool, as_json: bool
) -> None:
    """Restore SRC into a data folder that no broker runs on.

    SRC is a backup, a copied data folder (with its -wal files), or a .tar, .tar.gz or .tar.xz archive of one.
    All of it is checked first. A topic is restored whole or not at all, whatever happens. Its logs get new
    incarnation ids, so that clients can tell that they went back in time.
    """
    check_chosen(topic, partition)
    check_user(data_dir)
    from takhin.copies.restore import Selection  # noqa: PLC0415  loads SQLite
    from takhin.copies.restore import restore as put_back  # noqa: PLC0415

    with progress_bar("restore") as progress:
        restored = put_back(source, data_dir, Selection(topic, partition, replace), progress=progress)
    if as_json:
        print_json([{**asdict(of), "aside": str(of.aside) if of.aside else None} for of in restored])
        return
    for of in restored:
        what = counted(len(of.logs), "partition") if partition is None else f"partition {partition}"
        aside = f"; what was there is in {of.aside}" if of.aside is not None else ""
        click.echo(f"restored topic {of.topic}, {what}{aside}")
