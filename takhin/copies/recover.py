"""`takhin recover`: makes logs that are short or damaged startable again. Nothing else is touched.

First the old files are copied aside as they are. A short log is accepted as it is; a damaged one becomes a
new file of all that can be read, which knows the offsets that are lost between its records. Each gets a new
incarnation id, because the offsets that are lost at its end will be given again.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import apsw

from takhin.copies.checking import content_faults, log_of
from takhin.copies.mending import (
    lend_first_page,
    mend_empty_tables,
    mend_header,
    take_in_wal,
    trust_pages,
)
from takhin.copies.places import Place, Progress
from takhin.copies.replace import BesideBroker, Catalogue, Workplace, close_alone, put_file
from takhin.copies.runs import Run, without
from takhin.copies.salvage import Salvage
from takhin.copies.verify import Found, look_at
from takhin.disk import versions
from takhin.disk.beside import read
from takhin.disk.connection import close_whole, open_copy, open_writer
from takhin.disk.faults import sentence
from takhin.disk.finding import checked_topic, partition_files, topic_names
from takhin.disk.folder import is_locked
from takhin.disk.identity import LogRow, is_possible, num_partitions, read_log_row
from takhin.disk.layout import DAMAGED, SALVAGED, TEMPLATE, Layout, wal_of
from takhin.disk.repairs import released
from takhin.errors import CopyError, StartupError
from takhin.model import TopicPartition


@dataclass(slots=True)
class Recovered:
    """A log that was made startable."""

    topic: str
    partition: int
    faults: Sequence[str]
    start_offset: int
    end_offset: int
    aside: str
    lost: Sequence[tuple[int, int]] = ()
    """Ranges [first, end) of offsets that were in the log and are no longer."""
    lost_besides: Sequence[str] = ()
    """What was lost besides records, as clauses."""


class RecoverError(CopyError):
    """Some logs cannot be recovered. recovered: those that were."""

    def __init__(self, sentence: str, recovered: Sequence[Recovered]) -> None:
        super().__init__(sentence)
        self.recovered = recovered


def recover(
    data: Path,
    topic: str | None = None,
    partition: int | None = None,
    *,
    changed: bool = False,
    progress: Progress = lambda _done, _of: None,
) -> list[Recovered]:
    """Make each of the chosen logs that is short or damaged startable.

    One whose file is missing becomes an empty one if it is chosen by its number.

    changed: another program has changed the files, so pages that do not match their checksums are accepted
    if the structure of the file is sound.
    A broker may have the folder: it closes the logs for as long as that takes, and serves all others.
    Raises CopyError if it cannot help, StartupError if the folder cannot be used.
    """
    topic_names(data)  # raises if there is no data folder: `Catalogue` would make one
    with _translated():
        try:
            catalogue = Catalogue(data)
        except StartupError:
            if not is_locked(data):
                raise
            return _recover_beside(data, topic, partition, changed=changed, progress=progress)
        with catalogue:
            places = _places(catalogue.layout, topic, partition)
            return _recover_each(catalogue, places, changed=changed, progress=progress)


def _recover_beside(
    data: Path, topic: str | None, partition: int | None, *, changed: bool, progress: Progress
) -> list[Recovered]:
    """Recover logs of a folder that a broker has locked: it closes them for as long as that takes."""
    places = _places(Layout(data), topic, partition)
    damaged = []
    for done, place in enumerate(places):
        progress(done, len(places))
        if not _looked_at(place, BesideBroker(data)).ok:
            damaged.append(place)
    progress(len(places), len(places))
    if not damaged:
        return []
    with released(Layout(data), [TopicPartition(place.topic, place.partition) for place in damaged]):
        # A new one, which has the witness as it is now that nothing more is written to them.
        return _recover_each(BesideBroker(data), damaged, changed=changed, progress=progress)


def _recover_each(
    workplace: Workplace, places: Sequence[Place], *, changed: bool, progress: Progress
) -> list[Recovered]:
    """Recover what can be recovered. Raises RecoverError if something cannot, after all others."""
    recovered: list[Recovered] = []
    refused = []
    for done, place in enumerate(places):
        progress(done, len(places))
        found = _looked_at(place, workplace)
        try:
            if found.unreadable is not None:
                raise CopyError(f"{place.path} cannot be read and is left as it is: {found.unreadable}")
            if not found.ok:
                recovered.append(_Recovery(workplace, place, found, changed=changed).run())
        except CopyError as error:
            refused.append(str(error))
    progress(len(places), len(places))
    if refused:
        raise RecoverError("; ".join(refused), recovered)
    return recovered


def _looked_at(place: Place, workplace: Workplace) -> Found:
    if not place.path.exists():
        return Found(place.topic, place.partition, str(place.path), faults=["it is missing"])
    return look_at(place, workplace.noted)


def _places(layout: Layout, topic: str | None, partition: int | None) -> list[Place]:
    names = topic_names(layout.data_dir)
    if topic is not None and topic not in names:
        raise CopyError(f"there is no topic {topic!r} in {layout.data_dir}")
    places = [
        Place(checked_topic(name), number, path)
        for name in names
        if topic in (None, name)
        for number, path in partition_files(layout.topic(name))
        if partition in (None, number)
    ]
    if partition is not None and not places:
        if _belongs(layout, str(topic), partition):
            return [Place(str(topic), partition, layout.partition(str(topic), partition))]
        raise CopyError(
            f"{layout.partition(str(topic), partition)} is missing: put a copy of it back with "
            f"takhin restore SRC --topic {topic} --partition {partition}"
        )
    return places


def _belongs(layout: Layout, topic: str, partition: int) -> bool:
    """True if the topic has such a partition, as far as one can tell without its file."""
    try:
        return partition == 0 or partition < (read(layout.partition(topic, 0), num_partitions) or 0)
    except (CopyError, OSError, apsw.Error, ValueError):
        return False


class _Recovery:
    """Recovers one log."""

    def __init__(self, catalogue: Workplace, place: Place, found: Found, *, changed: bool) -> None:
        self._catalogue = catalogue
        self._place = place
        self._found = found
        self._changed = changed

    def run(self) -> Recovered:
        place = self._place
        if (log := self._found.log) is not None and (log.topic, log.partition) != place[:2]:
            raise CopyError(
                f"{place.path} is misplaced and is left as it is: it holds partition {log.partition} of "
                f"topic {log.topic!r}"
            )
        aside = self._catalogue.keep_copy(place.topic, place.path)
        work = self._catalogue.tmp / str(uuid.uuid4())
        work.mkdir()
        try:
            old, new = work / DAMAGED, work / SALVAGED
            if not aside.exists():
                return self._rebuilt(old, new, lent=False)
            shutil.copyfile(aside, old)
            if wal_of(aside).exists():
                shutil.copyfile(wal_of(aside), wal_of(old))
            template = work / TEMPLATE
            if not (mended := mend_header(old)):
                versions.build(template)
                mended = mend_header(old, template)
            recovered = self._whole(old)
            if recovered is None:
                if not mended:
                    lend_first_page(old, template)
                recovered = self._rebuilt(old, new, lent=not mended)
            recovered.aside = str(aside)
            return recovered
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _whole(self, old: Path) -> Recovered | None:
        """Put the copy in place if everything in it is sound; None if it is not."""
        with suppress(apsw.Error):
            take_in_wal(old)
        if wal_of(old).exists():
            return None
        try:
            mend_empty_tables(old)
            if not trust_pages(old, changed=self._changed):
                return None
            connection = open_writer(old)
            try:
                log, faults = log_of(connection, *self._place[:2])
                if log is None or faults or content_faults(connection, log):
                    return None
                expected = self._expected(log)
                log = self._catalogue.renewed(log, connection)
            finally:
                close_whole(connection)
        except (apsw.Error, ValueError):
            return None
        return self._put(old, log, without([_range(expected)], [_range(log)]), [])

    def _rebuilt(self, old: Path, new: Path, *, lent: bool) -> Recovered:
        """Put a new file in place, made of all that can be read."""
        with suppress(apsw.Error):  # also where the first page had to be lent before
            take_in_wal(old)
        expected = self._expected(readable_log_row(old))
        salvage = Salvage(old, new, lent=lent)
        try:
            end, kept = salvage.records(expected)
            bounds = (kept[0].start, kept[-1].end) if kept else (end, end)
            log = replace(
                expected, start_offset=bounds[0], end_offset=bounds[1], incarnation_id=str(uuid.uuid4())
            )
            partitions = [number for number, _ in partition_files(self._place.path.parent)]
            salvage.others(log, kept, max(partitions, default=0) + 1)
            lost = without([Run(expected.start_offset, end)], [*kept, *salvage.lost_before()])
        finally:
            salvage.close()
        return self._put(new, log, lost, salvage.notes)

    def _put(self, file: Path, log: LogRow, lost: Sequence[Run], besides: Sequence[str]) -> Recovered:
        close_alone(file)
        put_file(file, self._place.path)
        self._catalogue.note(log)
        bounds = log.start_offset, log.end_offset
        return Recovered(*self._place[:2], self._found.faults, *bounds, "", lost, besides)

    def _expected(self, log: LogRow | None) -> LogRow:
        """What the log should hold: by its own row, by the witness, or by its neighbours if both fail."""
        topic, partition, path = self._place
        if log is None or (log.topic, log.partition) != (topic, partition):
            files = partition_files(path.parent)
            known = [found for _, other in files if other != path and (found := _neighbour(other))]
            topic_id = known[0].topic_id if known else str(uuid.uuid4())
            log = LogRow(topic, partition, topic_id, "", 0, 0, 0)
        noted = self._catalogue.noted(log.topic_id, partition)
        if noted is not None:
            end = max(log.end_offset, noted.end_offset)
            log = replace(log, end_offset=end, commits=max(log.commits, noted.commits) + 1)
        return log


def _range(log: LogRow) -> Run:
    return Run(log.start_offset, log.end_offset)


def readable_log_row(path: Path) -> LogRow | None:
    """What a damaged copy says of its log, if that can be read and makes sense."""
    try:
        connection = open_copy(path)
        try:
            log = read_log_row(connection)
        finally:
            connection.close()
    except (apsw.Error, ValueError):
        return None
    return log if log is not None and is_possible(log) else None


def _neighbour(path: Path) -> LogRow | None:
    """What another partition of the topic says of itself, if that can be read and makes sense."""
    try:
        log = read(path, read_log_row)
    except (CopyError, OSError, apsw.Error, ValueError):
        return None
    return log if log is not None and is_possible(log) else None


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of the file system and of SQLite leave the block as CopyError."""
    try:
        yield
    except OSError as error:
        raise CopyError(f"cannot recover: {error.filename or 'the disk'}: {error.strerror}") from error
    except apsw.Error as error:
        raise CopyError(f"cannot recover: {sentence(error)}") from error
