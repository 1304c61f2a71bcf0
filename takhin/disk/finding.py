"""What a data folder or a backup has, as another process finds it. Opens no partition's file.

Raises CopyError with a sentence for people; the broker's start has stricter rules and its own errors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from takhin.disk.layout import Layout, is_beside_partition, partition_number
from takhin.errors import CopyError, InvalidTopicNameError
from takhin.limits import check_topic_name
from takhin.sentences import shown


def checked_topic(name: str) -> str:
    """`name` itself. Raises CopyError if no topic can have that name."""
    try:
        return check_topic_name(name)
    except InvalidTopicNameError as error:
        raise CopyError(str(error)) from error


def all_folders(layout: Layout) -> list[str]:
    """The names of all folders where topics are, sorted. Raises OSError."""
    return sorted(entry.name for entry in os.scandir(layout.topics) if _may_be_folder(entry))


def topic_folders(layout: Layout) -> list[str]:
    """The names of the topics' folders, sorted, without folders that no topic can have. Raises OSError.

    Such are `lost+found`, which a file system has made, and those without a partition's file.
    """
    return [name for name in all_folders(layout) if _may_be_topic(layout, name)]


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere, say: whoever opens it gets the error
        return True


def _may_be_topic(layout: Layout, name: str) -> bool:
    try:
        return bool(checked_topic(name) and partition_files(layout.topic(name)))
    except CopyError:
        return False
    except OSError:  # it may be one: whoever opens it gets the error
        return True


def topic_names(root: Path, *, strange: bool = False) -> list[str]:
    """The topics of a data folder or a backup, sorted. Raises CopyError if `root` is neither.

    strange: with the folders that are none.
    """
    layout = Layout(root)
    try:
        return all_folders(layout) if strange else topic_folders(layout)
    except OSError as error:
        raise CopyError(
            f"{root} is neither a data folder nor a backup: {layout.topics}: {error.strerror}"
        ) from error


def partition_files(folder: Path) -> list[tuple[int, Path]]:
    """(partition, its file) for each one in a topic's folder, by number. Raises OSError."""
    found = ((partition_number(path.name), path) for path in folder.iterdir())
    return sorted((number, path) for number, path in found if number is not None)


def strangers(folder: Path) -> Iterator[str]:
    """Names in a topic's folder that are neither partition files nor what SQLite keeps beside them."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        known = partition_number(entry.name) is not None or is_beside_partition(entry.name)
        if not known or not entry.is_file(follow_symlinks=False):
            yield shown(entry.name)
