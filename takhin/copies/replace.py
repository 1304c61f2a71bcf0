"""Puts files into a locked data folder's catalogue, and keeps aside what was in their place.

What restore and recover have replaced is in DATA/aside, for people to keep or remove.

At whatever moment the program dies, the catalogue holds the old files or the new ones. So two folders change
places in one system call, and a file takes the name of another in one. The write-ahead log of the old file
must be gone before that, or SQLite would apply it to the new file.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import apsw

from takhin.disk import statements as sql
from takhin.disk.connection import close_whole, open_writer
from takhin.disk.folder import DataFolder, sync_folder
from takhin.disk.identity import LogRow
from takhin.disk.layout import Layout, shm_of, size_bytes, wal_bytes, wal_of
from takhin.disk.repairs import check_alone
from takhin.disk.witness import Mark, Notes, Witness
from takhin.errors import CopyError

RENAME_EXCHANGE = 2
AT_FDCWD = -100


class Workplace(ABC):
    """Where files are made and kept aside in a data folder, whoever has it locked."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._aside: Path | None = None

    @property
    def tmp(self) -> Path:
        """Where new files are made; swept whenever the folder is locked."""
        return self.layout.tmp

    @abstractmethod
    def noted(self, topic_id: str, partition: int) -> Mark | None:
        """What the witness has noted of a log."""

    @abstractmethod
    def note(self, log: LogRow) -> None:
        """Note in the witness where the log ends that was put in place. Durable on return."""

    def aside(self, topic: str) -> Path:
        """Where to keep the replaced files of a topic: a new folder, the same for all of one command."""
        if self._aside is None:
            aside = self.layout.aside
            self._aside = aside / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%fZ")
            self._aside.mkdir(parents=True)
            sync_folder(aside)
            sync_folder(self.layout.data_dir)
        return self._aside / topic

    def keep_copy(self, topic: str, path: Path) -> Path:
        """Copy a partition's file and its write-ahead log aside, durably. Returns where the copy is.

        Raises CopyError if there is no room for it: a broker may need what is free.
        """
        needed, free = size_bytes(path) + wal_bytes(path), shutil.disk_usage(self.layout.data_dir).free
        if needed > free:
            raise CopyError(f"{path} cannot be kept aside: it has {needed} bytes, and {free} are free")
        aside = self.aside(topic)
        aside.mkdir(exist_ok=True)
        for each in (path, wal_of(path)):
            if each.exists():
                shutil.copyfile(each, aside / each.name)
                sync_file(aside / each.name)
        sync_folder(aside)
        sync_folder(aside.parent)
        return aside / path.name

    def renewed(self, log: LogRow, connection: apsw.Connection) -> LogRow:
        """Give a log that goes back in time a new incarnation id and more commits than the witness has noted.

        So the broker does not refuse it as one that has lost commits. In one transaction.
        """
        noted = self.noted(log.topic_id, log.partition)
        commits = max(log.commits, noted.commits if noted is not None else 0) + 1
        connection.execute(sql.RENEW_LOG, (incarnation_id := str(uuid.uuid4()), commits))
        return replace(log, incarnation_id=incarnation_id, commits=commits)


class Catalogue(Workplace):
    """A data folder under its lock, for changes while no broker runs. A context manager."""

    def __init__(self, data: Path) -> None:
        """Lock the folder, and make it if it is missing.

        Raises StartupError if a broker has it, CopyError if `takhin recover` is still at work beside a broker
        that has died, OSError.
        """
        self.folder = DataFolder(data)
        super().__init__(self.folder.layout)
        try:
            check_alone(self.layout)
            self._witness = Witness(self.layout.witness, lock_changed_before=self.folder.lock_changed_before)
        except (CopyError, OSError):
            self.folder.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_failure: object) -> None:
        self._witness.close()
        self.folder.close()

    def noted(self, topic_id: str, partition: int) -> Mark | None:
        return self._witness.noted(topic_id, partition)

    def note(self, log: LogRow) -> None:
        self._witness.slot(log.topic_id, log.partition).note(log.mark)
        sync_file(self.layout.witness)

    def put_topic(self, stage: Path, topic: str) -> Path | None:
        """Make a staged folder the topic's. Returns where the replaced topic is now, if there was one."""
        place = self.folder.layout.topic(topic)
        sync_folder(stage)
        if not os.path.lexists(place):
            self.folder.publish(stage, topic)
            return None
        aside = self.aside(topic)
        stage.rename(aside)  # first, because tmp is swept
        sync_folder(aside.parent)
        try:
            exchange(aside, place)
        except OSError as error:
            shutil.rmtree(aside)
            raise CopyError(
                f"{place} cannot change places with another folder on this file system ({error.strerror}): "
                "move it elsewhere by hand, then restore without --replace"
            ) from error
        sync_folder(self.folder.layout.topics)
        sync_folder(aside.parent)
        return aside


class BesideBroker(Workplace):
    """A data folder that a broker has locked, for changes of partitions that it has let go of."""

    def __init__(self, data: Path) -> None:
        """Raises OSError."""
        super().__init__(Layout(data))
        self._notes = Notes(data)

    def noted(self, topic_id: str, partition: int) -> Mark | None:
        return self._notes.of(topic_id, partition)

    def note(self, log: LogRow) -> None:
        """Nothing is noted: the witness is the broker's, and it may lag behind a log."""


def put_file(new: Path, path: Path) -> None:
    """Put a closed and synced file in the place of a partition's, which was copied aside. Durable on return.

    Before that the old file's write-ahead log is copied into it, so that it still starts if the program dies
    here. A file too damaged for that loses its log; it did not start before either. Raises OSError, with
    nothing touched if the new file is gone.
    """
    new.stat()
    with suppress(apsw.Error):
        old = open_writer(path)
        try:
            old.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            close_whole(old)
    wal_of(path).unlink(missing_ok=True)
    shm_of(path).unlink(missing_ok=True)
    sync_folder(path.parent)
    new.rename(path)
    sync_folder(path.parent)


def close_alone(path: Path) -> None:
    """Sync a file that SQLite has closed. Raises CopyError if its write-ahead log still has a part of it."""
    if wal_bytes(path):
        raise CopyError(f"{path} cannot take in its write-ahead log")
    wal_of(path).unlink(missing_ok=True)
    shm_of(path).unlink(missing_ok=True)
    sync_file(path)


def sync_file(path: Path) -> None:
    """Make a file's content durable. Not for files that SQLite has open: the close here drops their locks."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> None:
    """Swap the places of two folders in one step (renameat2(2)). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one.absolute()), os.fsencode(other.absolute())
    if libc.renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
