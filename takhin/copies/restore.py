"""`takhin restore`: puts a backup, or a copied data folder, into a data folder that no broker runs on.

Everything that is to be put back is copied into DATA/tmp and checked there before the catalogue is touched.
Each log gets a new incarnation id, so that clients can tell that it went back in time.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from takhin.copies import manifest as manifests
from takhin.copies.archive import unpack
from takhin.copies.checking import content_faults, log_of, witness_fault
from takhin.copies.manifest import Manifest
from takhin.copies.places import Place, Progress
from takhin.copies.replace import Catalogue, close_alone, put_file
from takhin.disk import versions
from takhin.disk.beside import check_header, read
from takhin.disk.connection import close_whole, open_writer
from takhin.disk.faults import is_damage, sentence
from takhin.disk.finding import checked_topic, partition_files, strangers, topic_names
from takhin.disk.folder import is_locked
from takhin.disk.header import HeaderError
from takhin.disk.identity import LogRow, num_partitions, read_log_row
from takhin.disk.layout import MANIFEST, Layout, wal_of
from takhin.disk.witness import Notes
from takhin.errors import CopyError
from takhin.schema.checksums import SINCE_VERSION


@dataclass(frozen=True, slots=True)
class Restored:
    """A topic, or one partition of it, that was put back."""

    topic: str
    logs: Sequence[LogRow]
    aside: Path | None
    """Where the replaced files are now; None if there were none."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is to be put back: all, a topic, or one partition of it.

    replace: also what is there already.
    """

    topic: str | None = None
    partition: int | None = None
    replace: bool = False


@dataclass(frozen=True, slots=True)
class _Staged:
    """A topic's files, ready to be put in place."""

    folder: Path
    topic: str
    logs: Sequence[LogRow]
    num_partitions: int | None
    """None unless partition 0 is among the logs."""


def restore(
    source: Path,
    data: Path,
    wanted: Selection = Selection(),
    *,
    progress: Progress = lambda _done, _of: None,
) -> list[Restored]:
    """Put the wanted part of `source` into the data folder `data`.

    source: a backup, a copied data folder, or a tar archive of one of them. Each topic is put back entirely
    or not at all. Raises CopyError, and StartupError if a broker has the data folder.
    """
    _check_places(source, data)
    with _translated(), Catalogue(data) as catalogue:
        if source.is_dir():
            root = source
        else:
            root = catalogue.folder.layout.unpacked
            unpack(source, root)
        _check_free(catalogue, names := _topics(root, wanted), wanted)
        try:
            staged = _Stager(root, catalogue, progress).stage(names, wanted.partition)
        except CopyError as error:
            others = "; --topic restores one of the others" if len(names) > 1 else ""
            raise CopyError(f"nothing was restored: {error}{others}") from error
        if wanted.partition is not None:
            return [_put_partition(catalogue, staged[0], wanted.partition)]
        return [_put_topic(catalogue, topic) for topic in staged]


def _check_places(source: Path, data: Path) -> None:
    """Refuse a folder that cannot be the source, before a data folder is made."""
    if not source.exists():
        raise CopyError(f"there is no {source}")
    inner, outer = source.resolve(), Layout(data.resolve())
    inside = any(inner.is_relative_to(part) for part in (outer.tmp, outer.topics))
    if outer.data_dir.is_relative_to(inner) or inside:
        raise CopyError(f"{source} is part of the data folder {data}, or holds it: restore takes a copy")
    if source.is_dir() and is_locked(source):
        raise CopyError(f"a broker runs on {source}: copy it with `takhin backup`")


def _topics(root: Path, wanted: Selection) -> list[str]:
    """The topics that are wanted. Raises CopyError if anything in `root` does not belong there."""
    layout = Layout(root)
    for path in (layout.topics, layout.manifest, layout.witness):
        if path.is_symlink():
            raise CopyError(f"{path} is a link: restore takes plain files and folders")
    names = []
    for entry in sorted(layout.topics.iterdir()) if layout.topics.is_dir() else ():
        if entry.is_symlink() or not entry.is_dir():
            raise CopyError(f"{entry} is not the folder of a topic")
        names.append(checked_topic(entry.name))
        if found := next(strangers(entry), None):
            raise CopyError(f"{found} does not belong in {entry}")
    if wanted.topic is None:
        return names or topic_names(root)
    if wanted.topic not in names:
        raise CopyError(f"there is no topic {wanted.topic!r} in {root}")
    return [wanted.topic]


def _check_free(catalogue: Catalogue, names: Sequence[str], wanted: Selection) -> None:
    """Refuse to replace anything without --replace, and to put a partition where there is no topic."""
    for name in names:
        there = catalogue.folder.layout.topic(name)
        if wanted.partition is not None:
            if not there.is_dir():
                raise CopyError(
                    f"there is no topic {name!r} to put a partition into: restore the whole topic"
                )
            there = catalogue.folder.file(name, wanted.partition)
        if os.path.lexists(there) and not wanted.replace:
            raise CopyError(f"{there} is there already: --replace puts it aside and the copy in its place")


class _Stager:
    """Copies files into DATA/tmp, checks them there and gives them new incarnation ids."""

    def __init__(self, root: Path, catalogue: Catalogue, progress: Progress) -> None:
        """Raises CopyError for an incomplete backup."""
        self._root = root
        self._layout = Layout(root)
        self._catalogue = catalogue
        self._progress = progress
        self._manifest: Manifest | None = manifests.load(root)
        if self._manifest is not None and not self._manifest.complete:
            raise CopyError(f"{root} is an incomplete backup: run the same `takhin backup` again first")
        self._notes = Notes(root)

    def stage(self, names: Sequence[str], partition: int | None) -> list[_Staged]:
        """Each topic, complete and checked, or that partition alone."""
        places = {name: self._places(name, partition) for name in names}
        everything = [place for of in places.values() for place in of]
        total, done = sum(place.path.stat().st_size for place in everything), 0
        folders = {name: self._catalogue.tmp / str(uuid.uuid4()) for name in names}
        for folder in folders.values():
            folder.mkdir()
        ready = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for place, log in zip(
                everything,
                pool.map(lambda place: self._ready(place, folders[place.topic]), everything),
                strict=True,
            ):
                ready[place] = log
                done += place.path.stat().st_size
                self._progress(done, total)
        return [
            self._whole(name, folders[name], [ready[place] for place in places[name]], partition)
            for name in names
        ]

    def _places(self, name: str, partition: int | None) -> list[Place]:
        files = partition_files(self._layout.topic(name))
        places = [Place(name, number, path) for number, path in files if partition in (None, number)]
        if not places:
            missing = "partition files" if partition is None else f"partition {partition}"
            raise CopyError(f"{self._layout.topic(name)} has no {missing}")
        return places

    def _ready(self, place: Place, folder: Path) -> tuple[LogRow, int | None]:
        """Copy a file with its write-ahead log, check it, and give it a new incarnation id.

        Returns what the log says of itself, and the topic's partition count if the file is partition 0's.
        """
        path = folder / place.path.name
        check_header(place.path)  # before it is copied: it may be a hole of some terabytes
        for each in (place.path, wal_of(place.path)):
            if each.exists():
                shutil.copyfile(each, folder / each.name)
        try:
            if check_header(path) < SINCE_VERSION:
                versions.migrate(path)
            connection = open_writer(path)
            try:
                log = self._checked(connection, place)
                versions.upgrade(connection)
                facts = num_partitions(connection)
                log = self._catalogue.renewed(log, connection)
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            finally:
                close_whole(connection)
        except (CopyError, HeaderError) as error:
            raise CopyError(str(error).replace(str(path), str(place.path))) from error
        except apsw.Error as error:
            what = "is damaged" if is_damage(error) else "cannot be put back"
            raise CopyError(f"{place.path} {what}: {sentence(error)}") from error
        close_alone(path)
        return log, facts

    def _checked(self, connection: apsw.Connection, place: Place) -> LogRow:
        """What the file says of its log. Raises CopyError for the first thing that is wrong with it."""
        log, faults = log_of(connection, place.topic, place.partition)
        if log is not None and not faults:
            faults = content_faults(connection, log)
            if fault := witness_fault(log, self._notes.of(log.topic_id, log.partition)):
                faults.append(fault)
            if self._manifest is not None and self._manifest.log(place.topic, place.partition) != log:
                faults.append(f"it is not what {MANIFEST} says was copied")
        if log is None or faults:
            raise CopyError(f"{place.path} is not put back: {faults[0]}")
        return log

    def _whole(
        self, name: str, folder: Path, ready: Sequence[tuple[LogRow, int | None]], partition: int | None
    ) -> _Staged:
        """The staged topic. Raises CopyError if a partition is missing, or is not of the same topic."""
        logs = [log for log, _ in ready]
        count = ready[0][1] if logs[0].partition == 0 else None
        if partition is None:
            if count is None or [log.partition for log in logs] != list(range(count)):
                there = ", ".join(str(log.partition) for log in logs)
                raise CopyError(
                    f"topic {name!r} is not whole in {self._root}: it has {count or 'an unknown number of'} "
                    f"partitions, and there are {there}"
                )
            if len({log.topic_id for log in logs}) > 1:
                raise CopyError(f"{self._root} holds files of several topics named {name!r}")
        return _Staged(folder, name, logs, count)


def _put_topic(catalogue: Catalogue, staged: _Staged) -> Restored:
    aside = catalogue.put_topic(staged.folder, staged.topic)
    for log in staged.logs:
        catalogue.note(log)
    return Restored(staged.topic, staged.logs, aside)


def _put_partition(catalogue: Catalogue, staged: _Staged, partition: int) -> Restored:
    log = staged.logs[0]
    place = catalogue.folder.file(staged.topic, partition)
    _check_belongs(catalogue, staged, log)
    aside = catalogue.keep_copy(staged.topic, place).parent if place.exists() else None
    put_file(staged.folder / place.name, place)
    catalogue.note(log)
    return Restored(staged.topic, [log], aside)


def _check_belongs(catalogue: Catalogue, staged: _Staged, log: LogRow) -> None:
    """Refuse a partition of another topic of the same name, as far as the files in its place show it."""
    files = partition_files(catalogue.folder.layout.topic(staged.topic))
    count = staged.num_partitions
    for number, path in files:
        try:
            there, facts = read(path, lambda db: (read_log_row(db), num_partitions(db)))
        except (CopyError, apsw.Error, OSError):
            continue  # a damaged file, perhaps the one that is to be replaced
        if there is not None and there.topic_id != log.topic_id:
            raise CopyError(
                f"partition {log.partition} of the copy belongs to another topic named {log.topic!r} "
                f"({log.topic_id}) than the one that is there ({there.topic_id})"
            )
        count = facts if number == 0 and count is None else count
    numbers = {number for number, _ in files} | {log.partition}
    if count is not None and not (log.partition < count and numbers >= set(range(count))):
        raise CopyError(
            f"topic {log.topic!r} has {count} partitions, and with this one there would be "
            f"{', '.join(map(str, sorted(numbers)))}: restore the whole topic"
        )


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of the file system leave the block as CopyError."""
    try:
        yield
    except OSError as error:
        raise CopyError(f"cannot restore: {error.filename or 'the disk'}: {error.strerror}") from error
