"""Where things are in a data folder, a backup or a copy of either, as another process finds them.

Owns the names that are allowed below topics/, the reading of the witness, and what the lock tells. Opens no
partition file.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from takhin.disk.witness import Mark, noted_in, told_by
from takhin.errors import CopyError, InvalidTopicNameError
from takhin.limits import check_topic_name
from takhin.sentences import shown

PARTITION_FILE = re.compile(r"(0|[1-9][0-9]{0,9})\.db")
BESIDE = re.compile(r"(0|[1-9][0-9]{0,9})\.db-(wal|shm)")


Progress = Callable[[int, int], None]
"""Called with what is done and what there is: bytes, or partitions."""


class Place(NamedTuple):
    """One partition's file."""

    topic: str
    partition: int
    path: Path

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


def checked_topic(name: str) -> str:
    """`name` as it is. Raises CopyError for what is no name of a topic."""
    try:
        return check_topic_name(name)
    except InvalidTopicNameError as error:
        raise CopyError(str(error)) from error


def topic_names(root: Path) -> list[str]:
    """The topics of a data folder or backup. Raises CopyError if it is neither."""
    try:
        return sorted(entry.name for entry in os.scandir(root / "topics") if entry.is_dir())
    except OSError as error:
        raise CopyError(
            f"{root} is no data folder and no backup: {root / 'topics'}: {error.strerror}"
        ) from error


def partition_files(folder: Path) -> list[tuple[int, Path]]:
    """The numbered files of a topic's folder, in order."""
    found = ((PARTITION_FILE.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


def strangers(folder: Path) -> Iterator[str]:
    """Names in a topic's folder that are neither partition files nor what SQLite keeps beside them."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        known = PARTITION_FILE.fullmatch(entry.name) or BESIDE.fullmatch(entry.name)
        if not known or not entry.is_file(follow_symlinks=False):
            yield shown(entry.name)


def in_use(root: Path) -> bool:
    """Whether a broker, or another command, has the folder locked."""
    try:
        descriptor = os.open(root / "LOCK", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class Marks:
    """What a folder's witness notes of each log, read without changing it."""

    def __init__(self, root: Path) -> None:
        """A folder without a witness, and a copy of one that was held, has no notes."""
        self._marks: dict[tuple[bytes, int], Mark] = {}
        try:
            content = (root / "witness").read_bytes()
        except FileNotFoundError:
            return
        if told_by(content, _lock_changed(root)):
            self._marks = dict(noted for _, noted in noted_in(content) if noted is not None)

    def of(self, topic_id: str, partition: int) -> Mark | None:
        """The note of a log, if there is one."""
        try:
            return self._marks.get((UUID(topic_id).bytes, partition))
        except ValueError:
            return None


def _lock_changed(root: Path) -> int:
    try:
        return (root / "LOCK").stat().st_ctime_ns
    except FileNotFoundError:
        return 0
