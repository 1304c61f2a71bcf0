"""`takhin recover`: its options and its output; takhin.copies.recover does the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from takhin.copies.recover import Recovered


@click.command(short_help="Make short or damaged logs startable.")
@data_dir_option
@topic_option
@partition_option
@click.option(
    "--trust-changes",
    is_flag=True,
    help="Keep pages that do not match their checksums if the file is otherwise sound: for files that you "
    "know another program has changed.",
)
@readers_option
@json_option
def recover(
    *, data_dir: Path, topic: str | None, partition: int | None, trust_changes: bool, as_json: bool
) -> None:
    """Make logs that are short or damaged startable.

    A broker that runs on the folder closes them meanwhile, and serves the others. The old files are kept in
    DATA/aside. A short log is accepted as it is; of a damaged one, all that can be read is kept. The command
    prints which offsets are lost. The logs get new incarnation ids and continue at the end of what was kept.
    Sound logs are not touched.

    A backup may save more: see takhin restore.
    """
    check_chosen(topic, partition)
    check_user(data_dir)
    from takhin.copies.recover import RecoverError  # noqa: PLC0415  loads SQLite
    from takhin.copies.recover import recover as make_startable  # noqa: PLC0415

    try:
        with progress_bar("recover") as progress:
            recovered = make_startable(data_dir, topic, partition, changed=trust_changes, progress=progress)
    except RecoverError as error:
        if error.recovered:
            _print(error.recovered, as_json=as_json)
        raise
    _print(recovered, as_json=as_json)


def _print(recovered: Sequence[Recovered], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(of) for of in recovered])
        return
    if not recovered:
        click.echo("nothing to recover: no log is short or damaged")
    for of in recovered:
        lost = [f"{first} to {end - 1}" if end - first > 1 else f"{first}" for first, end in of.lost]
        lost_text = f"lost offsets {' and '.join(lost)}" if lost else "no record is lost"
        besides = f", and {' and '.join(of.lost_besides)}" if of.lost_besides else ""
        aside = f"the old file is {of.aside}" if of.aside else "there was no file"
        click.echo(
            f"{of.topic}/{of.partition}: {lost_text}{besides}; it has {of.start_offset} to {of.end_offset}; "
            f"{aside} ({of.faults[0]})"
        )
