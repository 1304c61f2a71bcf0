"""The data folder: its lock, and changes of the catalogue that happen entirely or not at all. Knows no SQL.

The folders below topics/ are the catalogue; names are in layout.py. What is made or removed is in tmp/ until
one rename puts it into the catalogue, or after one has taken it out.

SQLite syncs a folder for a new -wal, never its parents, so every mkdir and rename here is followed by a
sync of the folder it happened in. Partition files are only copied before apsw opens them for the first time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from takhin.disk.finding import all_folders, partition_files, strangers, topic_folders
from takhin.disk.inodes import inode
from takhin.disk.layout import SUFFIX, Layout, partition_file, shm_of, wal_of
from takhin.disk.plain import open_plain
from takhin.disk.repairs import Repairs
from takhin.disk.versions import build
from takhin.errors import PartitionUnavailableError, StartupError


class DataFolder:
    """A locked data folder. `close` releases the lock."""

    def __init__(self, path: Path) -> None:
        """Make the folder if it is missing, lock it, and sweep leftovers. Raises StartupError."""
        self.path = path
        self.layout = layout = Layout(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            sync_folder(path.parent)
            self._folder_lock = _lock_folder(layout)
            try:
                self._lock, self.lock_changed_before = _lock(layout.lock)
                self._lock_inode = inode(layout.lock)
            except BaseException:
                os.close(self._folder_lock)
                raise
        except OSError as error:
            what = error.filename or path
            raise StartupError(f"cannot use the data folder {path}: {what}: {error.strerror}") from error
        try:
            if Repairs(layout).at_work:  # beside a broker that has died: its files are there
                layout.template.unlink(missing_ok=True)
            else:
                shutil.rmtree(layout.tmp, ignore_errors=True)
            layout.tmp.mkdir(exist_ok=True)
            layout.topics.mkdir(exist_ok=True)
            sync_folder(path)
        except OSError as error:
            self.close()
            raise StartupError(f"cannot write in the data folder {path}: {error.strerror}") from error

    def close(self) -> None:
        os.close(self._lock)
        os.close(self._folder_lock)

    def keep_lock(self) -> bool:
        """Make LOCK again, and lock it, if it was removed or replaced: True then.

        Raises StartupError if another broker has locked the folder meanwhile, OSError if LOCK cannot be made.
        """
        if inode(self.layout.lock) == self._lock_inode:
            return False
        descriptor, _ = _lock(self.layout.lock)
        os.dup2(descriptor, self._lock, inheritable=False)
        os.close(descriptor)
        self._lock_inode = inode(self.layout.lock)
        return True

    def lock_changed(self) -> int:
        """The change time of LOCK (ns). No copy of the folder has a LOCK with the same one."""
        return os.fstat(self._lock).st_ctime_ns

    def topic_names(self) -> list[str]:
        """The topics of the catalogue, sorted. Raises OSError."""
        return topic_folders(self.layout)

    def file(self, topic: str, partition: int) -> Path:
        return self.layout.partition(topic, partition)

    def files(self, topic: str) -> dict[int, Path]:
        """The partition files in a topic's folder by number, whatever its partition count. Raises OSError."""
        return dict(partition_files(self.layout.topic(topic)))

    def strangers(self) -> Iterator[Path]:
        """What is in the catalogue and belongs to no topic. Raises OSError."""
        names = self.topic_names()
        yield from (self.layout.topics / name for name in sorted(set(all_folders(self.layout)) - set(names)))
        for name in names:
            with suppress(OSError):  # whoever opens the topic gets it
                yield from (
                    self.layout.topic(name) / stranger for stranger in strangers(self.layout.topic(name))
                )

    @contextmanager
    def staged(self, num_partitions: int, *, first: int = 0) -> Iterator[Path]:
        """A new folder outside the catalogue with empty files for partitions `first` to `num_partitions` - 1.

        What is in it at the end of the block did not become part of a topic, and is removed.
        """
        self.layout.tmp.mkdir(exist_ok=True)  # somebody may have removed it
        template = self._template()
        stage = self.layout.tmp / str(uuid.uuid4())
        stage.mkdir()
        try:
            self._copy_template(template, stage, range(first, num_partitions))
            yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)  # what cannot be removed is swept at start

    def _copy_template(self, template: Path, stage: Path, partitions: Iterable[int]) -> None:
        for partition in partitions:
            shutil.copyfile(template, partition_file(stage, partition))

    def _template(self) -> Path:
        """A closed file of today's schema, built at the first call."""
        template = self.layout.template
        if not template.exists():
            built = self.layout.tmp / f"{uuid.uuid4()}{SUFFIX}"
            build(built)
            built.rename(template)  # so that a template is always a whole one
        return template

    def publish(self, stage: Path, topic: str) -> None:
        """Rename a staged folder, its files synced and closed, into the catalogue. Durable on return."""
        sync_folder(stage)
        stage.rename(self.layout.topic(topic))
        sync_folder(self.layout.topics)

    def add(self, stage: Path, topic: str) -> None:
        """Rename staged files, synced and closed, into a topic's folder. Durable on return.

        They replace what an earlier attempt may have left there, of which nobody has a file open.
        """
        folder = self.layout.topic(topic)
        sync_folder(stage)
        for path in sorted(stage.iterdir()):
            there = folder / path.name
            wal_of(there).unlink(missing_ok=True)
            shm_of(there).unlink(missing_ok=True)
            path.rename(there)
        sync_folder(folder)

    def remove(self, topic: str, partitions: Iterable[int]) -> None:
        """Remove partition files that are no part of the topic; nobody has them open. Durable on return."""
        for partition in partitions:
            path = self.file(topic, partition)
            for beside in (wal_of(path), shm_of(path), path):
                beside.unlink(missing_ok=True)
        sync_folder(self.layout.topic(topic))

    def retire(self, topic: str) -> None:
        """Rename a topic's folder, its files closed, out of the catalogue, then remove it. Durable.

        Raises PartitionUnavailableError for a folder that cannot be renamed, OSError.
        """
        folder = self.layout.topic(topic)
        if folder.is_symlink():  # removing it would leave the records where nobody looks for them
            raise PartitionUnavailableError(
                f"topic {topic!r} cannot be deleted: {folder} is a link to another folder. Stop the broker, "
                "then remove the link and what it leads to",
                topic=topic,
            )
        self.layout.tmp.mkdir(exist_ok=True)  # somebody may have removed it
        retired = self.layout.tmp / str(uuid.uuid4())
        try:
            folder.rename(retired)
        except FileNotFoundError:  # somebody has removed it already
            pass
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise PartitionUnavailableError(
                f"topic {topic!r} cannot be deleted: {folder} and {self.layout.tmp} are on different file "
                "systems, or the folder is in a lower layer of an overlay, as in a container's image. Stop "
                "the broker, then remove the folder",
                topic=topic,
            ) from error
        sync_folder(self.layout.topics)
        shutil.rmtree(retired, ignore_errors=True)  # what cannot be removed is swept at start


def is_locked(data_dir: Path) -> bool:
    """True if a broker, or a command that changes the folder, has it locked. Leaves no trace."""
    lock = Layout(data_dir).lock
    for path, opened in ((data_dir, os.open), (lock, open_plain)):
        try:
            descriptor = opened(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # some file systems lock no folders
            continue
        finally:
            os.close(descriptor)
    return False


def sync_folder(path: Path) -> None:
    """Make the folder's entries durable."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _lock_folder(layout: Layout) -> int:
    """Lock the folder itself, because LOCK may be removed while we run. Returns a descriptor.

    Some file systems of networks lock no folders; there LOCK must do. Raises StartupError, OSError.
    """
    descriptor = os.open(layout.data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise _in_use(layout.lock) from None
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOTSUP):
            os.close(descriptor)
            raise
    return descriptor


def _in_use(path: Path) -> StartupError:
    """Says who holds the lock, if LOCK is still there."""
    try:
        descriptor = open_plain(path, os.O_RDONLY)
    except OSError:
        holder = ""
    else:
        holder = os.read(descriptor, 32).decode(errors="replace").strip()
        os.close(descriptor)
    return StartupError(
        f"the data folder {path.parent} is in use by another broker (pid {holder or 'unknown'})"
    )


def _lock(path: Path) -> tuple[int, int]:
    """Take the lock and write our pid into it. The lock lasts until the descriptor is closed, or we die.

    Returns (descriptor, the file's previous change time in ns).
    """
    descriptor = open_plain(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise _in_use(path) from None
    changed_before = os.fstat(descriptor).st_ctime_ns
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor, changed_before
