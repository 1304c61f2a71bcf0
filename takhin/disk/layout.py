"""Every name in a data folder, in a backup, and beside a partition's file. Opens nothing; knows no SQL.

    DATA/LOCK                            flock, with the holder's pid in it
    DATA/topics/<topic>/<n>.db           partition n, with its -wal and -shm while it is in use
    DATA/tmp/                            files and folders being made or removed; swept at start
    DATA/access.db                       tokens and rules (access_file.py), and its -wal and -shm while in use
    DATA/witness                         what each log must hold at least; how many starts (witness.py)
    DATA/ballast                         room that is given up when the disk is full
    DATA/hold                            made by people: please let me copy these files
    DATA/held                            the broker's answer: copy them now
    DATA/recover                         made by takhin recover: please close these partitions (repairs.py)
    DATA/released                        the broker's answer: they are closed
    DATA/aside/<time>/<topic>/<n>.db     what restore and recover have replaced

A backup is a folder with the same topics/ and a backup.json.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

LOCK = "LOCK"
TOPICS = "topics"
TMP = "tmp"
ACCESS = "access.db"
WITNESS = "witness"
BALLAST = "ballast"
HOLD = "hold"
HELD = "held"
RECOVER = "recover"
RELEASED = "released"
ASIDE = "aside"
MANIFEST = "backup.json"

TEMPLATE = "template.db"
"""An empty partition file, from which new ones are copied."""
ARCHIVE = "archive"
DAMAGED = "old.db"
"""Where `takhin recover` works: its copy of the damaged file."""
SALVAGED = "new.db"
"""Where `takhin recover` works: the file that it makes of what can be read."""

SUFFIX = ".db"
WAL = "-wal"
SHM = "-shm"
PART = ".part"

_PARTITION = re.compile(rf"(0|[1-9][0-9]{{0,9}}){re.escape(SUFFIX)}")
_BESIDE = re.compile(rf"{_PARTITION.pattern}({WAL}|{SHM})")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in one data folder, or in a backup."""

    data_dir: Path

    @property
    def lock(self) -> Path:
        return self.data_dir / LOCK

    @property
    def topics(self) -> Path:
        return self.data_dir / TOPICS

    @property
    def tmp(self) -> Path:
        return self.data_dir / TMP

    @property
    def template(self) -> Path:
        return self.tmp / TEMPLATE

    @property
    def unpacked(self) -> Path:
        """Where restore unpacks an archive."""
        return self.tmp / ARCHIVE

    @property
    def access(self) -> Path:
        return self.data_dir / ACCESS

    @property
    def witness(self) -> Path:
        return self.data_dir / WITNESS

    @property
    def ballast(self) -> Path:
        return self.data_dir / BALLAST

    @property
    def hold(self) -> Path:
        return self.data_dir / HOLD

    @property
    def held(self) -> Path:
        return self.data_dir / HELD

    @property
    def recover(self) -> Path:
        return self.data_dir / RECOVER

    @property
    def released(self) -> Path:
        return self.data_dir / RELEASED

    @property
    def aside(self) -> Path:
        return self.data_dir / ASIDE

    @property
    def manifest(self) -> Path:
        """What a backup holds; a data folder has none."""
        return self.data_dir / MANIFEST

    def topic(self, name: str) -> Path:
        """The folder of a topic."""
        return self.topics / name

    def partition(self, topic: str, number: int) -> Path:
        """The file of a partition."""
        return partition_file(self.topic(topic), number)


NAMES = Layout(Path())
"""The same names as a person writes them, relative to the data folder: for sentences and archives."""


def partition_file(folder: Path, number: int) -> Path:
    """The file of a partition in a topic's folder, or in one that is to become a topic's."""
    return folder / f"{number}{SUFFIX}"


def partition_number(name: str) -> int | None:
    """The partition whose file has this name; None for a name that is not a partition file's."""
    found = _PARTITION.fullmatch(name)
    return int(found[1]) if found else None


def is_beside_partition(name: str) -> bool:
    """Whether SQLite keeps a file of this name beside a partition's."""
    return _BESIDE.fullmatch(name) is not None


def wal_of(path: Path) -> Path:
    """The write-ahead log beside a file, whether there is one or not."""
    return path.with_name(f"{path.name}{WAL}")


def wal_bytes(path: Path) -> int:
    """The size of the write-ahead log beside a file; 0 where there is none."""
    return size_bytes(wal_of(path))


def shm_of(path: Path) -> Path:
    """The shared index of the write-ahead log beside a file, whether there is one or not."""
    return path.with_name(f"{path.name}{SHM}")


def size_bytes(path: Path) -> int:
    """The size of a file; 0 where there is none."""
    try:
        return os.stat(path).st_size  # noqa: PTH116  half as long as the Path's own, for every description
    except FileNotFoundError:
        return 0


def unfinished(path: Path) -> Path:
    """The name under which a file is written before it gets its own."""
    return path.with_name(f"{path.name}{PART}")
