"""The data folder: names, the lock, and changes that are whole or not there. Knows no SQL.

    DATA/LOCK                        flock, with the holder's pid in it
    DATA/topics/<topic>/<n>.db       the folders are the catalogue
    DATA/tmp/                        topics being made or removed; swept at start

SQLite syncs a folder for a new -wal, never its parents, so every mkdir and rename here is followed by a
sync of the folder it happened in. Partition files are only ever copied before apsw first opens them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from takhin.disk.layout import shm_of, wal_of
from takhin.disk.versions import build
from takhin.errors import StartupError


class DataFolder:
    """A locked data folder. `close` lets go of the lock."""

    def __init__(self, path: Path) -> None:
        """Make the folder if it is missing, lock it, and sweep leftovers. Raises StartupError."""
        self.path = path
        self.topics = path / "topics"
        self._tmp = path / "tmp"
        try:
            path.mkdir(parents=True, exist_ok=True)
            sync_folder(path.parent)
            self._lock, self.lock_changed_before = _lock(path / "LOCK")
        except OSError as error:
            raise StartupError(f"cannot use the data folder {path}: {error.strerror}") from error
        try:
            shutil.rmtree(self._tmp, ignore_errors=True)
            self._tmp.mkdir(exist_ok=True)
            self.topics.mkdir(exist_ok=True)
            sync_folder(path)
        except OSError as error:
            self.close()
            raise StartupError(f"cannot write in the data folder {path}: {error.strerror}") from error

    def close(self) -> None:
        os.close(self._lock)

    def lock_changed(self) -> int:
        """When LOCK was last changed (ns). No copy of the folder has one of the same time."""
        return os.fstat(self._lock).st_ctime_ns

    def topic_names(self) -> Iterator[str]:
        return (entry.name for entry in sorted(self.topics.iterdir()) if entry.is_dir())

    def file(self, topic: str, partition: int) -> Path:
        return self.topics / topic / f"{partition}.db"

    def files(self, topic: str) -> list[Path]:
        """The partition files that are there, whatever the topic says of their number."""
        return [path for path in sorted((self.topics / topic).iterdir()) if path.suffix == ".db"]

    @contextmanager
    def staged(self, num_partitions: int, *, first: int = 0) -> Iterator[Path]:
        """A new folder outside the catalogue with empty files for partitions `first` to `num_partitions` - 1.

        What is in it at the end of the block did not become part of a topic, and is removed.
        """
        template = self._template()
        stage = self._tmp / str(uuid.uuid4())
        stage.mkdir()
        try:
            self._copy_template(template, stage, range(first, num_partitions))
            yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)  # what cannot be removed is swept at start

    def _copy_template(self, template: Path, stage: Path, partitions: Iterable[int]) -> None:
        for partition in partitions:
            shutil.copyfile(template, stage / f"{partition}.db")

    def _template(self) -> Path:
        """A closed file of today's schema, built when first asked for."""
        template = self._tmp / "template.db"
        if not template.exists():
            unfinished = self._tmp / f"{uuid.uuid4()}.db"
            build(unfinished)
            unfinished.rename(template)  # only whole: a failed build is not taken for one
        return template

    def publish(self, stage: Path, topic: str) -> None:
        """Rename a staged folder, its files synced and closed, into the catalogue. Durable on return."""
        sync_folder(stage)
        stage.rename(self.topics / topic)
        sync_folder(self.topics)

    def add(self, stage: Path, topic: str) -> None:
        """Rename staged files, synced and closed, into a topic's folder. Durable on return.

        They replace what an earlier attempt may have left there, of which nobody has a file open.
        """
        folder = self.topics / topic
        sync_folder(stage)
        for path in sorted(stage.iterdir()):
            there = folder / path.name
            wal_of(there).unlink(missing_ok=True)
            shm_of(there).unlink(missing_ok=True)
            path.rename(there)
        sync_folder(folder)

    def retire(self, topic: str) -> None:
        """Rename a topic's folder, its files closed, out of the catalogue, then remove it. Durable."""
        aside = self._tmp / str(uuid.uuid4())
        (self.topics / topic).rename(aside)
        sync_folder(self.topics)
        shutil.rmtree(aside, ignore_errors=True)  # what cannot be removed is swept at start


def sync_folder(path: Path) -> None:
    """Make the folder's entries durable."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _lock(path: Path) -> tuple[int, int]:
    """Take the lock and write our pid into it. The descriptor holds it until closed, or until we die.

    Beside it: when the file was last changed before that (ns).
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise StartupError(
            f"the data folder {path.parent} is in use by another broker (pid {holder})"
        ) from None
    changed_before = os.fstat(descriptor).st_ctime_ns
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor, changed_before
