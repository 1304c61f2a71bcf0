"""What the commands on data folders share: the option that names one, progress on a terminal, and words.

Loads no SQLite: each command imports takhin.copies only when it runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from takhin.settings import INT32_MAX, Settings

Progress = Callable[[int, int], None]

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="TAKHIN_DATA_DIR",
    default=Settings().data_dir,
    metavar="DATA",
    help=f"The data folder.  [default: {Settings().data_dir}; variable: TAKHIN_DATA_DIR]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print a JSON document instead of lines.")
topic_option = click.option("--topic", metavar="T", help="This topic only.")
partition_option = click.option(
    "--partition", type=click.IntRange(0, INT32_MAX), metavar="N", help="This partition of the topic only."
)


def check_chosen(topic: str | None, partition: int | None) -> None:
    """Refuse a partition without a topic."""
    if partition is not None and topic is None:
        raise click.UsageError("--partition needs --topic", click.get_current_context())


@contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """A bar on stderr, if that is a terminal; it is told what is done and what there is."""
    if not sys.stderr.isatty():
        yield lambda _done, _of: None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def show(done: int, of: int) -> None:
            bar.length = max(1, of)
            bar.update(min(done, of) - bar.pos)

        yield show


def print_json(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document, indent=1, ensure_ascii=False))


def sized(size_bytes: int) -> str:
    """512 bytes, 1.5 GB."""
    if size_bytes < 1_000:
        return f"{size_bytes} bytes"
    size, units = float(size_bytes), ["kB", "MB", "GB", "TB"]
    while (size := size / 1_000) >= 1_000 and len(units) > 1:
        del units[0]
    return f"{size:.1f} {units[0]}"
