"""The files of one topic, as a query reads them: in short reads, with nothing open in between.

A log only grows at its end and shrinks at its beginning. So a query sees one state of it without a
transaction: it remembers where each log ended at the first read, and reads no further. Knows no table but
`log`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw

from takhin.disk import beside
from takhin.disk.faults import sentence
from takhin.disk.finding import checked_topic, partition_files, topic_names
from takhin.disk.identity import LogRow, identity_fault, num_partitions, read_log_row
from takhin.disk.layout import Layout
from takhin.disk.tables import tables_fault
from takhin.errors import CopyError, QueryError

T = TypeVar("T")


class TopicFiles:
    """The files of a topic in a data folder, also of a running broker, or in a backup."""

    def __init__(self, root: Path, name: str) -> None:
        """Raises QueryError if there is no such topic, or if a file of it is missing."""
        try:
            if checked_topic(name) not in topic_names(root):
                raise QueryError(f"there is no topic {name!r} in {root}")
            found = partition_files(Layout(root).topic(name))
        except (CopyError, OSError) as error:
            raise QueryError(str(error)) from error
        self.name = name
        self.paths = [path for _, path in found]
        self._seen: dict[int, LogRow] = {}
        self._versions: dict[int, int] = {}
        count = self.read(0, lambda connection, _: num_partitions(connection)) if found else None
        # Files beyond the count are no part of the topic, for the broker either.
        self.paths = self.paths[:count]
        numbers = [number for number, _ in found[:count]]
        if numbers != list(range(count or 0)) or not found:
            raise QueryError(
                f"topic {name!r} has {count} partitions, but {root} has {len(found)} files of it"
            )

    def read(self, partition: int, work: Callable[[apsw.Connection, LogRow], T]) -> T:
        """Call `work` in one read transaction, with a connection and the log's row as it is now; its result.

        `work` must be short, and may be called twice. Raises QueryError.
        """
        path = self.paths[partition]
        try:
            if partition not in self._versions:  # beside a checkpoint this takes longer than most reads
                self._versions[partition] = beside.check_header(path)
            log, done = beside.read(
                path,
                lambda connection: self._work(partition, connection, work),
                version=self._versions[partition],
            )
        except apsw.Error as error:
            raise QueryError(f"{path} cannot be read: {sentence(error)}") from error
        except FileNotFoundError as error:
            raise QueryError(f"topic {self.name!r} was deleted while it was read") from error
        except (CopyError, OSError) as error:
            raise QueryError(str(error)) from error
        self._seen.setdefault(partition, log)
        return done

    def end_offset(self, log: LogRow) -> int:
        """Where the log ended when it was first read."""
        return self._seen.get(log.partition, log).end_offset

    def _work(
        self, partition: int, connection: apsw.Connection, work: Callable[[apsw.Connection, LogRow], T]
    ) -> tuple[LogRow, T]:
        path = self.paths[partition]
        if partition not in self._seen and (fault := tables_fault(connection)) is not None:
            raise QueryError(f"{path} {fault}")
        log = read_log_row(connection)
        if log is None or identity_fault(log, self.name, partition) is not None:
            raise QueryError(f"{path} does not hold partition {partition} of {self.name!r}")
        seen = self._seen.get(partition, log)
        if (log.topic_id, log.incarnation_id) != (seen.topic_id, seen.incarnation_id):
            raise QueryError(f"topic {self.name!r} was replaced while it was read")
        return log, work(connection, log)
