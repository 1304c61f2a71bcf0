"""`takhin verify`: its options and its output; takhin.copies.verify does the work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from takhin.cli.output import json_option, print_json, progress_bar
from takhin.sentences import counted, sized

if TYPE_CHECKING:
    from takhin.copies.verify import Found, Report


@click.command(short_help="Check a data folder or a backup.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@json_option
def verify(folder: Path, *, as_json: bool) -> None:
    """Check DIR, the data folder of a running or stopped broker, or a backup. Nothing is changed.

    Every page of every file is read, to check checksums, SQLite's structures, that no record is missing but
    those that compaction has removed, headers, committed offsets, and what the witness (or the backup's
    manifest) says. The exit code is 0 if all is well, 1 if there is a fault, or something that could not be
    read.
    """
    from takhin.copies.verify import verify as look_over  # noqa: PLC0415  loads SQLite

    with progress_bar("verify") as progress:
        report = look_over(folder, progress=progress)
    if as_json:
        print_json(_document(report))
    else:
        for line in _lines(report):
            click.echo(line)
    if not report.ok:
        raise click.ClickException(_summary(report))


def _lines(report: Report) -> list[str]:
    lines = []
    for found in report.partitions:
        where = f"{found.topic}/{found.partition}"
        if found.ok:
            size = sized(found.bytes)
            lines.append(f"{where}: ok, offsets {found.start_offset} to {found.end_offset}, {size}")
        lines += [f"{where}: FAULT: {fault}" for fault in found.faults]
        if found.unreadable is not None:
            lines.append(f"{where}: COULD NOT BE READ: {found.unreadable}")
    return [*lines, *(f"FAULT: {fault}" for fault in report.faults)]


def _summary(report: Report) -> str:
    bad = [found for found in report.partitions if found.faults]
    faults = len(report.faults) + sum(len(found.faults) for found in bad)
    unread = sum(found.unreadable is not None for found in report.partitions)
    said = []
    if faults:
        partitions = counted(len(report.partitions), "partition")
        said.append(f"{counted(faults, 'fault')}, in {len(bad)} of {partitions}")
    if unread:
        said.append(f"{counted(unread, 'partition')} could not be read")
    return f"{report.folder}: {'; '.join(said)}"


def _document(report: Report) -> dict[str, Any]:
    return {
        "folder": report.folder,
        "kind": report.kind,
        "ok": report.ok,
        "faults": report.faults,
        "partitions": [_partition(found) for found in report.partitions],
    }


def _partition(found: Found) -> dict[str, Any]:
    names = (
        "topic",
        "partition",
        "path",
        "ok",
        "bytes",
        "start_offset",
        "end_offset",
        "faults",
        "unreadable",
    )
    return {name: getattr(found, name) for name in names}
