"""`takhin backup`: copies every partition of a running or stopped broker's folder, each as of one moment.

Each file is copied by SQLite's backup API from one read transaction, so it holds whole batches, and no
committed offset is ahead of its records. The copy is written without a journal and synced before it gets its
name. So a file that has its name is whole, and the next run continues one that was interrupted.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from threading import Lock

import apsw

from takhin.copies import manifest as manifests
from takhin.copies.checking import content_faults, log_of
from takhin.copies.manifest import Manifest
from takhin.copies.mending import has_zeroed_page
from takhin.copies.places import Place, Progress
from takhin.copies.replace import sync_file
from takhin.disk.beside import DamagedError, read
from takhin.disk.connection import library_version, open_backup_target, open_beside
from takhin.disk.faults import is_damage, is_full, sentence
from takhin.disk.finding import checked_topic, partition_files, topic_names
from takhin.disk.folder import sync_folder
from takhin.disk.identity import LogRow, num_partitions, read_log_row
from takhin.disk.layout import Layout, partition_file, size_bytes, unfinished
from takhin.disk.tables import tables_fault
from takhin.errors import CopyError
from takhin.schema import VERSION
from takhin.schema.checksums import SINCE_VERSION

STEP_PAGES = 1_000
"""Pages copied between two looks at the progress: 16 MB. Fewer or more are no faster."""
CACHE_KIB = 256
"""Of both connections. A copied page is not needed again: 507 MB/s, with 20 MB 468, with 200 MB 189."""
THREADS = 2
"""Files copied at one time: while one is synced, the other goes on, which saves 15 to 25 % of the time."""
MANIFEST_SECONDS = 1.0
"""The manifest is written at the end, and after a partition if the last time is at least this long ago."""


class _GoneError(Exception):
    """The topic was deleted while it was copied."""


def backup(data: Path, destination: Path, *, progress: Progress = lambda _done, _of: None) -> Manifest:
    """Copy the data folder `data` into `destination`, which is a new or empty folder or an incomplete backup.

    Raises CopyError, which says what is wrong. Files that were copied stay in the destination, for the next
    run.
    """
    names = [checked_topic(name) for name in topic_names(data)]
    if destination.absolute().resolve().is_relative_to(data.absolute().resolve()):
        raise CopyError(f"{destination} is inside the data folder {data}: a backup belongs elsewhere")
    with _translated(destination), _locked(destination):
        return _Backup(data, destination, progress).run(names)


class _StoppedError(Exception):
    """This copy is given up, because another one failed or somebody interrupts."""


class _Backup:
    """One run of `takhin backup`."""

    def __init__(self, data: Path, destination: Path, progress: Progress) -> None:
        self._source = Layout(data)
        self._target = Layout(destination)
        self._progress = progress
        self._manifest = _begun(data, destination)
        self._written = 0.0
        self._done: dict[Path, int] = {}
        """How many bytes of each source file are copied."""
        self._total = 0
        self._stopped = False
        self._lock = Lock()  # over the manifest and the progress, while files are copied on threads

    def run(self, names: list[str]) -> Manifest:
        manifest = self._manifest
        lacking: list[str] = []
        self._write_manifest()
        self._total = sum(map(size_bytes, self._source_files(names)))
        for gone in {of["topic"] for of in manifest.partitions.values()} - set(names):
            self._leave_out(gone)
        self._target.topics.mkdir(exist_ok=True)
        try:
            for name in names:
                self._stopped = False
                try:
                    self._copy_topic(name)
                except _GoneError:
                    self._leave_out(name)
                except DamagedError as error:
                    lacking.append(str(error))
        except BaseException:
            self._write_manifest()
            raise
        sync_folder(self._target.topics)
        if lacking:
            self._write_manifest()
            raise CopyError(
                f"the backup is incomplete: {'; '.join(lacking)}. All other topics are in it, and the same "
                "command continues it once these are whole"
            )
        manifest.complete = True
        manifest.finished_at = _now()
        self._write_manifest()
        return manifest

    def _write_manifest(self) -> None:
        self._manifest.write(self._target.data_dir)

    def _source_files(self, names: Iterable[str]) -> Iterator[Path]:
        """The partition files of the topics, without those of a topic that was deleted meanwhile."""
        for name in names:
            with suppress(FileNotFoundError):
                yield from (path for _, path in partition_files(self._source.topic(name)))

    def _leave_out(self, name: str) -> None:
        self._drop(name)
        self._manifest.left_out.append(name)

    def _drop(self, name: str) -> None:
        manifest = self._manifest
        manifest.topics.pop(name, None)
        manifest.partitions = {at: of for at, of in manifest.partitions.items() if of["topic"] != name}
        shutil.rmtree(self._target.topic(name), ignore_errors=True)

    def _copy_topic(self, name: str) -> None:
        """Copy the partitions that are missing. Raises _GoneError if the topic is deleted meanwhile."""
        source, folder = self._source.topic(name), self._target.topic(name)
        first = self._source.partition(name, 0)
        with _gone_explains(source, first):
            count, log = read(first, lambda db: _said_of_topic(db, first))
            if count is None or log is None:
                raise DamagedError(f"{first} does not say what the topic {name!r} is")
            copied = self._manifest.log(name, 0)
            if copied is not None and copied.topic_id != log.topic_id:  # another topic of that name
                self._drop(name)
            folder.mkdir(exist_ok=True)
            places = [Place(name, number, partition_file(source, number)) for number in range(count)]
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
        to = partition_file(folder, place.partition)
        if copied is None or size_bytes(to) != copied["bytes"]:
            self._copy(place, to, topic_id)
        self._advance(place, size_bytes(place.path))

    def _advance(self, place: Place, size_bytes: int) -> None:
        if self._stopped:
            raise _StoppedError
        with self._lock:
            self._done[place.path] = size_bytes
            self._progress(min(sum(self._done.values()), self._total), self._total)

    def _copy(self, place: Place, to: Path, topic_id: str) -> None:
        part = unfinished(to)
        try:
            log = read(place.path, lambda db: self._copy_file(db, place, part))
            if log.topic_id != topic_id:
                raise DamagedError(
                    f"{place.path} belongs to another topic ({log.topic_id}) than partition 0 ({topic_id})"
                )
            _check_zeros(part, place, log)
            sync_file(part)
            part.rename(to)
        except apsw.Error as error:
            part.unlink(missing_ok=True)
            raise _explained(error, place.path) from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_folder(to.parent)
        with self._lock:
            self._manifest.add(log, to.stat().st_size)
            if time.monotonic() - self._written > MANIFEST_SECONDS:
                self._write_manifest()
                self._written = time.monotonic()

    def _copy_file(self, source: apsw.Connection, place: Place, to: Path) -> LogRow:
        log, faults = log_of(source, place.topic, place.partition)
        if log is None or faults:
            raise DamagedError(f"{place.path}: {faults[0]}")
        to.unlink(missing_ok=True)
        source.pragma("cache_size", -CACHE_KIB)
        checksums = int(source.pragma("user_version")) >= SINCE_VERSION
        target = open_backup_target(to, cache_kib=CACHE_KIB, checksums=checksums)
        try:
            with target.backup("main", source, "main") as copy:
                while not copy.done:
                    copy.step(STEP_PAGES)
                    share = (copy.page_count - copy.remaining) / max(1, copy.page_count)
                    self._advance(place, int(share * size_bytes(place.path)))
        finally:
            target.close()
        return log


def _said_of_topic(db: apsw.Connection, first: Path) -> tuple[int | None, LogRow | None]:
    """(its partition count, its row of `log`) of partition 0's file `first`. Raises DamagedError."""
    if (fault := tables_fault(db)) is not None:
        raise DamagedError(f"{first} {fault}")
    return num_partitions(db), read_log_row(db)


def _check_zeros(part: Path, place: Place, log: LogRow) -> None:
    """Raise DamagedError if a page that was lost has been copied as zeros: its checksum matches."""
    if not has_zeroed_page(part):
        return
    with closing(open_beside(part, immutable=True)) as copied:
        faults = content_faults(copied, log)
    if faults:
        raise DamagedError(f"{place.path} is damaged: {faults[0]}; `takhin verify` shows how far it goes")


def _begun(data: Path, destination: Path) -> Manifest:
    """The manifest of an incomplete backup of `data`, or a new one. Raises CopyError for other folders."""
    found = manifests.load(destination)
    source = str(data.absolute().resolve())
    if found is None:
        if any(destination.iterdir()):
            raise CopyError(f"{destination} is not empty and is not a backup: name a new folder")
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
    """Make the folder, and lock other backups out of it."""
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
def _gone_explains(source: Path, first: Path) -> Iterator[None]:
    """Raise _GoneError at the end of the block if the topic's folder `source` was deleted meanwhile.

    That explains any error then. first: the file that other errors name.
    """
    before = _folder_id(source)
    if before is None:
        raise _GoneError
    try:
        yield
    except (CopyError, apsw.Error, OSError) as error:
        if _folder_id(source) != before:
            raise _GoneError from error
        if isinstance(error, apsw.Error):
            raise _explained(error, first) from error
        raise
    if _folder_id(source) != before:
        raise _GoneError


def _explained(error: apsw.Error, path: Path) -> CopyError:
    if is_full(error):
        return CopyError(f"the disk of the backup is full: {path} is not in it")
    if is_damage(error) or isinstance(error, apsw.SQLError):  # SQLError: its tables are not ours
        return DamagedError(f"{path} is damaged: {sentence(error)}; `takhin verify` shows how far it goes")
    return CopyError(f"{path} cannot be copied: {sentence(error)}")


def _folder_id(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
