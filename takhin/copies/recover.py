"""`takhin recover`: makes logs that are short or damaged startable again. Nothing else is touched.

First the old files are copied aside as they are. A short log is accepted as it is; a damaged one becomes a
new file of what can be read. Each gets a new incarnation id, because its lost offsets will be given again.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import apsw

from takhin.copies.checking import content_faults, log_of
from takhin.copies.mending import lend_first_page, mend_header, take_in_wal, trust_pages
from takhin.copies.places import Place, Progress
from takhin.copies.replace import Catalogue, close_alone, put_file
from takhin.copies.salvage import Expected, Run, Salvage, readable_log_row
from takhin.copies.verify import Found, look_at
from takhin.disk import versions
from takhin.disk.beside import read
from takhin.disk.connection import close_whole, open_writer
from takhin.disk.faults import sentence
from takhin.disk.finding import checked_topic, partition_files, topic_names
from takhin.disk.identity import LogRow, read_log_row
from takhin.disk.layout import DAMAGED, SALVAGED, TEMPLATE, wal_of
from takhin.errors import CopyError


@dataclass(slots=True)
class Recovered:
    """A log that was made startable."""

    topic: str
    partition: int
    faults: Sequence[str]
    start_offset: int
    end_offset: int
    aside: str
    lost: list[tuple[int, int]] = field(default_factory=list)
    """Ranges [first, end) of offsets that were in the log and are no longer."""
    lost_besides: list[str] = field(default_factory=list)
    """What was lost besides records, as clauses."""


def recover(
    data: Path,
    topic: str | None = None,
    partition: int | None = None,
    *,
    changed: bool = False,
    progress: Progress = lambda _done, _of: None,
) -> list[Recovered]:
    """Make each of the chosen logs that is short or damaged startable.

    changed: another program has changed the files, so pages that do not match their checksums are accepted
    if the structure of the file is sound.
    Raises CopyError if it cannot help, StartupError if a broker has the folder.
    """
    topic_names(data)  # raises if there is no data folder: `Catalogue` would make one
    with _translated(), Catalogue(data) as catalogue:
        places = _places(catalogue, topic, partition)
        recovered = []
        for done, place in enumerate(places):
            progress(done, len(places))
            found = look_at(place, catalogue.noted)
            if found.unreadable is not None:
                raise CopyError(f"{place.path} cannot be read and is left as it is: {found.unreadable}")
            if not found.ok:
                recovered.append(_Recovery(catalogue, place, found, changed=changed).run())
        progress(len(places), len(places))
        return recovered


def _places(catalogue: Catalogue, topic: str | None, partition: int | None) -> list[Place]:
    names = topic_names(catalogue.folder.path)
    if topic is not None and topic not in names:
        raise CopyError(f"there is no topic {topic!r} in {catalogue.folder.path}")
    places = [
        Place(checked_topic(name), number, path)
        for name in names
        if topic in (None, name)
        for number, path in partition_files(catalogue.folder.layout.topic(name))
        if partition in (None, number)
    ]
    if partition is not None and not places:
        raise CopyError(
            f"{catalogue.folder.file(str(topic), partition)} is missing: put a copy of it back with "
            f"takhin restore SRC --topic {topic} --partition {partition}"
        )
    return places


class _Recovery:
    """Recovers one log."""

    def __init__(self, catalogue: Catalogue, place: Place, found: Found, *, changed: bool) -> None:
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
                recovered = self._rebuilt(old, new)
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
            if not trust_pages(old, changed=self._changed):
                return None
            connection = open_writer(old)
            try:
                log, faults = log_of(connection, *self._place[:2])
                if log is None or faults or content_faults(connection, log):
                    return None
                expected = self._expected(log).log
                log = self._catalogue.renewed(log, connection)
            finally:
                close_whole(connection)
        except apsw.Error:
            return None
        return self._put(old, log, expected)

    def _rebuilt(self, old: Path, new: Path) -> Recovered:
        """Put a new file in place, made of the longest run of records that can be read."""
        expected = self._expected(readable_log_row(old))
        salvage = Salvage(old, new)
        try:
            log = expected.log
            end = salvage.end(log.end_offset)
            run = salvage.longest_run(log.start_offset, end)
            log = replace(log, start_offset=run.start, end_offset=run.end, incarnation_id=str(uuid.uuid4()))
            salvage.write(run, Expected(log, expected.num_partitions))
        finally:
            salvage.close()
        recovered = self._put(new, log, replace(expected.log, end_offset=end))
        recovered.lost_besides = salvage.notes
        return recovered

    def _put(self, file: Path, log: LogRow, expected: LogRow) -> Recovered:
        close_alone(file)
        put_file(file, self._place.path)
        self._catalogue.note(log)
        kept = Run(log.start_offset, log.end_offset)
        return Recovered(*self._place[:2], self._found.faults, *kept, "", _missing(expected, kept))

    def _expected(self, log: LogRow | None) -> Expected:
        """What the log should hold: by its own row, by the witness, or by its neighbours if both fail."""
        topic, partition, path = self._place
        files = partition_files(path.parent)
        if log is None:
            known = [found for _, other in files if other != path and (found := _neighbour(other))]
            topic_id = known[0].topic_id if known else str(uuid.uuid4())
            log = LogRow(topic, partition, topic_id, "", 0, 0, 0)
        noted = self._catalogue.noted(log.topic_id, partition)
        if noted is not None:
            end = max(log.end_offset, noted.end_offset)
            log = replace(log, end_offset=end, commits=max(log.commits, noted.commits) + 1)
        return Expected(log, len(files))


def _neighbour(path: Path) -> LogRow | None:
    """What another partition of the topic says of itself; None if it cannot be read."""
    try:
        return read(path, read_log_row)
    except (CopyError, OSError, apsw.Error):
        return None


def _missing(expected: LogRow, kept: Run) -> list[tuple[int, int]]:
    """The ranges [first, end) of offsets that should be there and were not kept."""
    before = (expected.start_offset, min(kept.start, expected.end_offset))
    after = (max(kept.end, expected.start_offset), expected.end_offset)
    if kept.start == kept.end:
        before, after = (expected.start_offset, expected.end_offset), (0, 0)
    return [(first, end) for first, end in (before, after) if first < end]


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of the file system and of SQLite leave the block as CopyError."""
    try:
        yield
    except OSError as error:
        raise CopyError(f"cannot recover: {error.filename or 'the disk'}: {error.strerror}") from error
    except apsw.Error as error:
        raise CopyError(f"cannot recover: {sentence(error)}") from error
