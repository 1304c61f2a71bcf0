"""`takhin backup`: copies every partition of a running or stopped broker's folder, one consistent file each.

Each file is copied by SQLite's backup API from one read transaction, so it holds whole batches, and no
committed offset is ahead of its records. It is written without a journal and synced before it gets its name:
a file that has its name is whole, and a run that was cut short is taken up by the next one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from threading import Lock

import apsw

from takhin.copies import manifest as manifests
from takhin.copies.checking import log_of
from takhin.copies.folders import Place, Progress, checked_topic, topic_names
from takhin.copies.manifest import Manifest
from takhin.copies.replace import sync_file
from takhin.disk.beside import DamagedError, Log, num_partitions, read, read_log
from takhin.disk.connection import library_version
from takhin.disk.faults import is_damage, is_full, sentence
from takhin.disk.folder import sync_folder
from takhin.errors import CopyError
from takhin.schema import PAGE_BYTES, VERSION
from takhin.schema.checksums import RESERVED_BYTES, SINCE_VERSION

STEP_PAGES = 1_000
"""Pages copied between two looks at the progress: 16 MB. Fewer or more are no faster."""
CACHE_KIB = 256
"""Of both sides: what was copied is not needed again. 507 MB/s, with 20 MB 468, with 200 MB 189."""
THREADS = 2
"""Files copied at one time: while one is synced, the other goes on, which takes 15 to 25 % off."""
MANIFEST_SECONDS = 1.0
"""The manifest is written after a partition if it has not been for so long, and at the end."""


class _GoneError(Exception):
    """The topic was deleted while it was copied."""


def backup(data: Path, destination: Path, *, progress: Progress = lambda _done, _of: None) -> Manifest:
    """Copy the data folder `data` into the new, empty or incomplete backup `destination`.

    Raises CopyError naming what is wrong; what is whole in the destination stays, for the next run.
    """
    names = [checked_topic(name) for name in topic_names(data)]
    if destination.absolute().resolve().is_relative_to(data.absolute().resolve()):
        raise CopyError(f"{destination} is inside the data folder {data}: a backup belongs elsewhere")
    with _translated(destination), _locked(destination):
        return _Backup(data, destination, progress).run(names)


class _StoppedError(Exception):
    """Another file could not be copied, or somebody interrupts: this one is given up, too."""


class _Backup:
    """One run."""

    def __init__(self, data: Path, destination: Path, progress: Progress) -> None:
        self._data = data
        self._destination = destination
        self._progress = progress
        self._manifest = _begun(data, destination)
        self._written = 0.0
        self._done: dict[Path, int] = {}
        """Bytes of each source file that are copied."""
        self._total = 0
        self._stopped = False
        self._lock = Lock()  # over the manifest and the progress, while files are copied on threads

    def run(self, names: list[str]) -> Manifest:
        manifest = self._manifest
        manifest.write(self._destination)
        self._total = sum(
            _size(path) for name in names for path in (self._data / "topics" / name).glob("*.db")
        )
        for gone in {of["topic"] for of in manifest.partitions.values()} - set(names):
            self._leave_out(gone)
        (self._destination / "topics").mkdir(exist_ok=True)
        try:
            for name in names:
                self._stopped = False
                try:
                    self._copy_topic(name)
                except _GoneError:
                    self._leave_out(name)
        except BaseException:
            manifest.write(self._destination)
            raise
        sync_folder(self._destination / "topics")
        manifest.complete = True
        manifest.finished_at = _now()
        manifest.write(self._destination)
        return manifest

    def _leave_out(self, name: str) -> None:
        self._drop(name)
        self._manifest.left_out.append(name)

    def _drop(self, name: str) -> None:
        manifest = self._manifest
        manifest.topics.pop(name, None)
        manifest.partitions = {at: of for at, of in manifest.partitions.items() if of["topic"] != name}
        shutil.rmtree(self._destination / "topics" / name, ignore_errors=True)

    def _copy_topic(self, name: str) -> None:
        """Copy the partitions that are missing. Raises _GoneError if the topic is deleted meanwhile."""
        source = self._data / "topics" / name
        folder = self._destination / "topics" / name
        with _gone_explains(source):
            count, log = read(source / "0.db", lambda db: (num_partitions(db), read_log(db)))
            if count is None or log is None:
                raise CopyError(f"{source / '0.db'} does not say what the topic {name!r} is")
            copied = self._manifest.log(name, 0)
            if copied is not None and copied.topic_id != log.topic_id:  # another topic of that name
                self._drop(name)
            folder.mkdir(exist_ok=True)
            places = [Place(name, partition, source / f"{partition}.db") for partition in range(count)]
            with ThreadPoolExecutor(THREADS) as pool:
                copying = [pool.submit(self._copy_missing, place, folder, log.topic_id) for place in places]
                try:
                    for each in copying:
                        each.result()
                except BaseException:
                    self._stopped = True
                    raise
                finally:
                    pool.shutdown(cancel_futures=True)
        sync_folder(folder)
        self._manifest.topics[name] = count

    def _copy_missing(self, place: Place, folder: Path, topic_id: str) -> None:
        copied = self._manifest.partitions.get(str(place))
        to = folder / f"{place.partition}.db"
        if copied is None or _size(to) != copied["bytes"]:
            self._copy(place, to, topic_id)
        self._advance(place, _size(place.path))

    def _advance(self, place: Place, size_bytes: int) -> None:
        if self._stopped:
            raise _StoppedError
        with self._lock:
            self._done[place.path] = size_bytes
            self._progress(min(sum(self._done.values()), self._total), self._total)

    def _copy(self, place: Place, to: Path, topic_id: str) -> None:
        unfinished = to.with_name(f"{to.name}.part")
        try:
            log = read(place.path, lambda db: self._copy_file(db, place, unfinished))
            if log.topic_id != topic_id:
                raise DamagedError(
                    f"{place.path} is of another topic ({log.topic_id}) than partition 0 ({topic_id})"
                )
            sync_file(unfinished)
            unfinished.rename(to)
        except apsw.Error as error:
            unfinished.unlink(missing_ok=True)
            raise _explained(error, place.path) from error
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        sync_folder(to.parent)
        with self._lock:
            self._manifest.add(log, to.stat().st_size)
            if time.monotonic() - self._written > MANIFEST_SECONDS:
                self._manifest.write(self._destination)
                self._written = time.monotonic()

    def _copy_file(self, source: apsw.Connection, place: Place, to: Path) -> Log:
        log, faults = log_of(source, place.topic, place.partition)
        if log is None or faults:
            raise DamagedError(f"{place.path}: {faults[0]}")
        to.unlink(missing_ok=True)
        source.pragma("cache_size", -CACHE_KIB)
        target = apsw.Connection(str(to))
        try:
            # It gets its name only when it is whole and synced, so nothing needs to be undone or in order.
            target.pragma("journal_mode", "off")
            target.pragma("synchronous", 0)
            target.pragma("cache_size", -CACHE_KIB)
            # Pages that come out of a write-ahead log have no checksums. They get them when they are written,
            # if it is known by then that the file has any: so a first page, which is replaced, says it.
            target.pragma("page_size", PAGE_BYTES)
            if int(source.pragma("user_version")) >= SINCE_VERSION:
                target.reserve_bytes("main", RESERVED_BYTES)
            target.execute("CREATE TABLE first (page)")
            with target.backup("main", source, "main") as copy:
                while not copy.done:
                    copy.step(STEP_PAGES)
                    share = (copy.page_count - copy.remaining) / max(1, copy.page_count)
                    self._advance(place, int(share * _size(place.path)))
        finally:
            target.close()
        return log


def _begun(data: Path, destination: Path) -> Manifest:
    """The manifest of an incomplete backup of this folder, else a new one. Raises CopyError."""
    found = manifests.load(destination)
    source = str(data.absolute().resolve())
    if found is None:
        if any(destination.iterdir()):
            raise CopyError(f"{destination} is not empty and is no backup: name a new folder")
        return Manifest(version("takhin"), library_version(), VERSION, source, _now())
    if found.complete:
        raise CopyError(f"{destination} is a complete backup, of {found.begun_at}: name a new folder")
    if found.source != source:
        raise CopyError(f"{destination} is an incomplete backup of {found.source}: name a new folder")
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _locked(destination: Path) -> Iterator[None]:
    """Make the folder, and keep other backups out of it."""
    destination.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(destination, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CopyError(f"another backup into {destination} is under way") from None
    finally:
        os.close(descriptor)


@contextmanager
def _translated(destination: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or destination
        raise CopyError(f"cannot make the backup: {where}: {error.strerror}") from error


@contextmanager
def _gone_explains(source: Path) -> Iterator[None]:
    """Raise _GoneError, whatever failed or not, if the topic's folder is no longer the one it was."""
    before = _folder_id(source)
    if before is None:
        raise _GoneError
    try:
        yield
    except (CopyError, apsw.Error, OSError) as error:
        if _folder_id(source) != before:
            raise _GoneError from error
        if isinstance(error, apsw.Error):
            raise _explained(error, source / "0.db") from error
        raise
    if _folder_id(source) != before:
        raise _GoneError


def _explained(error: apsw.Error, path: Path) -> CopyError:
    if is_full(error):
        return CopyError(f"the disk of the backup is full: {path} is not in it")
    if is_damage(error):
        return DamagedError(f"{path} is damaged: {sentence(error)}; `takhin verify` shows how far it goes")
    return CopyError(f"{path} cannot be copied: {sentence(error)}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _folder_id(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
