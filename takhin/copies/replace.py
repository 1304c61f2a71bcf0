"""Puts files into a locked data folder's catalogue, and keeps aside what was in their place.

    DATA/aside/<time>/<topic>/<n>.db*    what restore and recover have replaced, for people to keep or remove

Whatever happens at whatever moment, what the catalogue holds afterwards is the old or the new. So a folder
changes places with another in one step of the kernel's, and a file takes another's name in one. A file's old
write-ahead log must be gone before that, or SQLite would play it into the new file.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import uuid
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Self

import apsw

from takhin.copies.folders import BESIDE
from takhin.disk.beside import Log
from takhin.disk.connection import close_whole, open_writer
from takhin.disk.folder import DataFolder, sync_folder
from takhin.disk.layout import shm_of, wal_bytes, wal_of
from takhin.disk.witness import Mark, Witness
from takhin.errors import CopyError, StartupError

RENAME_EXCHANGE = 2
AT_FDCWD = -100

RENEW = "UPDATE log SET incarnation_id = ?, commits = ?"


class Catalogue:
    """A data folder under its lock, to be changed while no broker runs. A context manager."""

    def __init__(self, data: Path) -> None:
        """Lock the folder, making it if it is missing. Raises StartupError where a broker has it."""
        self.folder = DataFolder(data)
        try:
            self._witness = Witness(data / "witness", lock_changed_before=self.folder.lock_changed_before)
        except OSError:
            self.folder.close()
            raise
        self._aside: Path | None = None
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_failure: object) -> None:
        self._witness.close()
        self.folder.close()

    @property
    def tmp(self) -> Path:
        """Where new files are made; swept whenever the folder is locked."""
        return self.folder.path / "tmp"

    def noted(self, topic_id: str, partition: int) -> Mark | None:
        """What the witness has noted of a log."""
        with self._lock:
            return self._witness.slot(topic_id, partition).mark

    def aside(self, topic: str) -> Path:
        """Where to keep what is replaced of a topic: a new folder, the same for all of one command."""
        if self._aside is None:
            aside = self.folder.path / "aside"
            self._aside = aside / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%fZ")
            self._aside.mkdir(parents=True)
            sync_folder(aside)
            sync_folder(self.folder.path)
        return self._aside / topic

    def keep_copy(self, topic: str, path: Path) -> Path:
        """Copy a partition's file and what is beside it aside, durably; returns where the file is."""
        aside = self.aside(topic)
        aside.mkdir(exist_ok=True)
        for each in (path, wal_of(path)):
            if each.exists():
                shutil.copyfile(each, aside / each.name)
                sync_file(aside / each.name)
        sync_folder(aside)
        sync_folder(aside.parent)
        return aside / path.name

    def renewed(self, log: Log, connection: apsw.Connection) -> Log:
        """Give a log that goes back in time a new incarnation id, and as many commits as the witness knows.

        So it is not taken for one that has lost some. In one transaction.
        """
        noted = self.noted(log.topic_id, log.partition)
        commits = max(log.commits, noted.commits if noted is not None else 0) + 1
        connection.execute(RENEW, (incarnation_id := str(uuid.uuid4()), commits))
        return replace(log, incarnation_id=incarnation_id, commits=commits)

    def note(self, log: Log) -> None:
        """Let the witness say what the log that was put in place holds. Durable."""
        self._witness.slot(log.topic_id, log.partition).note(Mark(log.commits, log.end_offset))
        sync_file(self.folder.path / "witness")

    def put_topic(self, stage: Path, topic: str) -> Path | None:
        """Make a staged folder the topic's. Returns where the topic that was there is now."""
        place = self.folder.topics / topic
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
        sync_folder(self.folder.topics)
        sync_folder(aside.parent)
        return aside


def put_file(new: Path, path: Path) -> None:
    """Let a closed and synced file take the place of a partition's, which is kept aside already. Durable.

    First the old file takes in its own write-ahead log. One too damaged for that loses it here; it was not
    to be started before either.
    """
    with suppress(apsw.Error, StartupError):
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
    """Sync a file that SQLite has closed, and see that all of it is in the file itself."""
    if wal_bytes(path):
        raise CopyError(f"{path} cannot take in its write-ahead log")
    for beside in path.parent.iterdir():
        if BESIDE.fullmatch(beside.name) and beside.name.startswith(f"{path.name}-"):
            beside.unlink()
    sync_file(path)


def sync_file(path: Path) -> None:
    """Make a file's content durable. Not for files that SQLite has open: closing it drops their locks."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> None:
    """Let two folders change places in one step (renameat2(2)). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one.absolute()), os.fsencode(other.absolute())
    if libc.renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
