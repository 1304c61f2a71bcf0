"""`takhin verify`: checks a data folder, in use or not, or a backup, and changes nothing.

Every page of every file is read, and so compared with its checksum, by one thread for each core (SQLite
runs without Python's lock).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import apsw

from takhin.copies import manifest as manifests
from takhin.copies.checking import content_faults, log_of, witness_fault
from takhin.copies.manifest import Manifest
from takhin.copies.places import Place, Progress, place_key
from takhin.disk.beside import DamagedError, damaged_pages, read, read_ahead, wal_faults
from takhin.disk.faults import is_damage, sentence
from takhin.disk.finding import checked_topic, partition_files, strangers, topic_names
from takhin.disk.identity import LogRow, num_partitions
from takhin.disk.layout import MANIFEST, NAMES, SUFFIX, Layout, unfinished, wal_of
from takhin.disk.witness import Mark, Notes
from takhin.errors import CopyError
from takhin.schema import PAGE_BYTES

THREADS = min(8, os.cpu_count() or 1)
AHEAD_BYTES_MAX = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (2 * THREADS)
"""The beginning of a larger file would be out of memory again before SQLite reads it."""


@dataclass(slots=True)
class Found:
    """What was found in one partition's file."""

    topic: str
    partition: int
    path: str
    bytes: int = 0
    start_offset: int | None = None
    end_offset: int | None = None
    faults: list[str] = field(default_factory=list)
    unreadable: str | None = None
    """Why the file could not be read. It may still be whole then."""
    log: LogRow | None = None
    num_partitions: int | None = None

    @property
    def ok(self) -> bool:
        return not self.faults and self.unreadable is None


@dataclass(slots=True)
class Report:
    """What was found in a folder."""

    folder: str
    kind: str
    """"backup" or "data"."""
    partitions: list[Found] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """Faults of the folder as a whole, or of a topic."""

    @property
    def ok(self) -> bool:
        return not self.faults and all(found.ok for found in self.partitions)


def verify(folder: Path, *, progress: Progress = lambda _done, _of: None) -> Report:
    """Check a data folder or a backup. Raises CopyError if it is neither."""
    manifest = manifests.load(folder)
    report = Report(str(folder), "data" if manifest is None else "backup")
    layout = Layout(folder)
    notes = Notes(folder)  # before the logs, which may grow meanwhile
    places = [place for name in topic_names(folder, strange=True) for place in _places(layout, name, report)]
    report.partitions = _look_over(places, notes, progress)
    for name in dict.fromkeys(place.topic for place in places):
        report.faults += _topic_faults(name, [found for found in report.partitions if found.topic == name])
    if manifest is not None:
        _compare(report, manifest)
    elif unfinished(layout.manifest).exists():
        report.faults.append("it is a backup that was cut short when it began")
    return report


def _places(layout: Layout, name: str, report: Report) -> Iterator[Place]:
    """The partition files of a topic. Whatever does not belong there goes into the report."""
    shown = NAMES.topic(name)
    try:
        topic = layout.topic(checked_topic(name))
        report.faults += [f"{shown}: {stranger} does not belong there" for stranger in strangers(topic)]
        files = partition_files(topic)
    except CopyError as error:
        report.faults.append(f"{NAMES.topics}: {error}")
        return
    except OSError as error:
        if os.path.lexists(topic):
            report.faults.append(f"{shown} could not be read: {error.strerror}")
        return  # else it was deleted meanwhile
    if not files:
        report.faults.append(f"{shown} has no partition files")
    yield from (Place(name, partition, path) for partition, path in files)


def _look_over(places: Sequence[Place], notes: Notes, progress: Progress) -> list[Found]:
    sizes = {place: _size(place.path) for place in places}
    total, done, lock = sum(sizes.values()), 0, Lock()

    def look(place: Place) -> Found:
        nonlocal done
        found = look_at(place, notes.of)
        found.bytes = sizes[place]
        with lock:
            done += sizes[place]
            progress(done, total)
        return found

    with ThreadPoolExecutor(THREADS) as pool:
        # The large ones first, so that no thread is left alone with one at the end.
        largest = sorted(places, key=lambda place: -sizes[place])
        found = dict(zip(largest, pool.map(look, largest), strict=True))
    return [found[place] for place in places if sizes[place] or place.path.exists()]


def look_at(place: Place, noted: Callable[[str, int], Mark | None] = lambda _id, _n: None) -> Found:
    """Check one file. noted: what the witness notes of a log, by topic id and partition."""
    found = Found(place.topic, place.partition, str(place.path))

    def work(connection: apsw.Connection) -> None:
        log, found.faults = log_of(connection, place.topic, place.partition)
        if log is not None:
            found.log, found.start_offset, found.end_offset = log, log.start_offset, log.end_offset
            found.num_partitions = num_partitions(connection)
            found.faults += content_faults(connection, log)
            if fault := witness_fault(log, noted(log.topic_id, log.partition)):
                found.faults.append(fault)

    try:
        read_ahead(place.path, AHEAD_BYTES_MAX)
        read(place.path, work)
        found.faults += wal_faults(place.path)
        if any("checksum" in fault for fault in found.faults):
            found.faults += _extent(place.path)
    except DamagedError as error:
        found.faults.append(str(error).removeprefix(f"{place.path} "))
    except CopyError as error:
        found.unreadable = str(error).removeprefix(f"{place.path} ")
    except OSError as error:
        found.unreadable = error.strerror or str(error)
    except (apsw.Error, ValueError) as error:  # ValueError: text that is none, where pages have no checksums
        if is_damage(error) or isinstance(error, apsw.SQLError | ValueError):
            found.faults += [sentence(error), *_extent(place.path)]
        else:
            found.unreadable = sentence(error)
    return found


def _extent(path: Path) -> list[str]:
    """Which pages of the file are damaged, as sentences."""
    try:
        pages = damaged_pages(path)
    except apsw.Error:
        return []
    if not pages:
        return [f"the damage is in {wal_of(path).name}"] if wal_of(path).exists() else []
    some = ", ".join(map(str, pages[:5])) + (", …" if len(pages) > 5 else "")
    return [f"{len(pages)} of {_size(path) // PAGE_BYTES} pages do not match their checksums: {some}"]


def _topic_faults(name: str, found: Sequence[Found]) -> Iterator[str]:
    """Why a topic's files do not belong together."""
    numbers = [one.partition for one in found]
    first = NAMES.partition(name, 0)
    if 0 not in numbers:
        yield f"{first.parent} has no {first.name}, which says what the topic is"
        return
    count = found[numbers.index(0)].num_partitions
    if count is None:
        if found[numbers.index(0)].ok:
            yield f"{first} does not say how many partitions the topic has"
        return
    for missing in sorted(set(range(count)) - set(numbers)):
        yield f"{NAMES.partition(name, missing)} is missing: the topic has {count} partitions"
    # An empty one is left of an interrupted change of the topic, or about to become part of it.
    holding = {one.partition for one in found if one.log is None or one.log.end_offset}
    for extra in sorted(holding - set(range(count))):
        yield f"{NAMES.partition(name, extra)} is one too many: the topic has {count} partitions"
    if len({one.log.topic_id for one in found if one.log is not None}) > 1:
        yield f"{first.parent} holds files of several topics of that name: their topic ids differ"


def _compare(report: Report, manifest: Manifest) -> None:
    """Add to the report where a backup and its manifest disagree."""
    if not manifest.complete:
        report.faults.append("it is incomplete: run the same `takhin backup` again, which continues it")
    left = dict(manifest.partitions)
    for found in report.partitions:
        left.pop(place_key(found.topic, found.partition), None)
        said = manifest.log(found.topic, found.partition)
        if said is None:
            if manifest.complete:
                found.faults.append(f"{MANIFEST} does not know of it")
        elif found.log is not None and found.log != said:
            found.faults.append(
                f"it is not the one that was copied: {MANIFEST} says {said.start_offset} to "
                f"{said.end_offset} after {said.commits} commits, it holds {found.log.start_offset} to "
                f"{found.log.end_offset} after {found.log.commits}"
            )
    report.faults += [
        f"{NAMES.topics / at}{SUFFIX} is missing: {MANIFEST} says that it was copied" for at in left
    ]


def _size(path: Path) -> int:
    """The size of a file; 0 if it is not there or may not be looked at."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
