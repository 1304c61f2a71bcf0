"""What the commands on data folders share: the options that choose a folder, a topic and a partition.

It loads no SQLite: each command imports takhin.copies only when it runs.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from takhin.config import OPTIONS
from takhin.disk.access import UMASKS, limit_readers
from takhin.settings import INT32_MAX, Settings

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="TAKHIN_DATA_DIR",
    default=Settings().data_dir,
    metavar="DATA",
    help=f"The data folder.  [default: {OPTIONS['data_dir'].shown_default}; variable: TAKHIN_DATA_DIR]",
)
topic_option = click.option("--topic", metavar="T", help="This topic only.")
partition_option = click.option(
    "--partition", type=click.IntRange(0, INT32_MAX), metavar="N", help="This partition of the topic only."
)


def _limit_readers(_context: click.Context, _parameter: click.Parameter, readers: str) -> None:
    limit_readers(readers)


_READERS = OPTIONS["storage.readers"]
readers_option = click.option(
    "--readers",
    type=click.Choice(list(UMASKS)),
    envvar=_READERS.variable,
    default=Settings().storage.readers,
    callback=_limit_readers,
    expose_value=False,
    help=f"Who may read what is made.  [default: {_READERS.shown_default}; variable: {_READERS.variable}]",
)


def check_user(data_dir: Path) -> None:
    """Refuse root in a folder of another user, whose broker could not use what root makes there."""
    try:
        owner = data_dir.stat().st_uid
    except OSError:  # whoever works on the folder says so
        return
    if os.geteuid() == 0 and owner != 0:
        raise click.ClickException(
            f"{data_dir} belongs to another user, and its broker could not use what root makes there: run this "
            f"as that user (setpriv --reuid={owner} --regid={owner} --clear-groups takhin …, or sudo -u)"
        )


def check_chosen(topic: str | None, partition: int | None) -> None:
    """Refuse a partition without a topic."""
    if partition is not None and topic is None:
        raise click.UsageError("--partition needs --topic", click.get_current_context())
