"""The files of one topic, as a query reads them: in short reads, with nothing open in between.

A log only grows at its end and shrinks at its beginning, so a query needs no transaction to see one state of
it: it takes note of where each log ends, and reads no further. Knows no table but `log`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw

from takhin.copies.folders import checked_topic, partition_files, topic_names
from takhin.disk import beside
from takhin.disk.beside import Log
from takhin.disk.faults import sentence
from takhin.errors import CopyError, QueryError

T = TypeVar("T")


class Topic:
    """A topic of a data folder, of a running broker's too, or of a backup."""

    def __init__(self, root: Path, name: str) -> None:
        """Raises QueryError if there is no such topic, or its files are not complete."""
        try:
            if checked_topic(name) not in topic_names(root):
                raise QueryError(f"there is no topic {name!r} in {root}")
            found = partition_files(root / "topics" / name)
        except (CopyError, OSError) as error:
            raise QueryError(str(error)) from error
        self.name = name
        self.paths = [path for _, path in found]
        self._seen: dict[int, Log] = {}
        self._versions: dict[int, int] = {}
        count = self.read(0, lambda connection, _: beside.num_partitions(connection)) if found else None
        if [number for number, _ in found] != list(range(count or 0)) or not found:
            raise QueryError(
                f"topic {name!r} has {count} partitions, but {root} has {len(found)} files of it"
            )

    def read(self, partition: int, work: Callable[[apsw.Connection, Log], T]) -> T:
        """What `work` makes of a connection, and of the log's row as it is now, in one read transaction.

        It may be called twice, and has to be short. Raises QueryError.
        """
        path = self.paths[partition]
        try:
            if partition not in self._versions:  # beside a checkpoint it takes longer than most reads
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

    def end_offset(self, log: Log) -> int:
        """Where the log ended when it was first read."""
        return self._seen.get(log.partition, log).end_offset

    def _work(
        self, partition: int, connection: apsw.Connection, work: Callable[[apsw.Connection, Log], T]
    ) -> tuple[Log, T]:
        log = beside.read_log(connection)
        if log is None or (log.topic, log.partition) != (self.name, partition):
            raise QueryError(f"{self.paths[partition]} does not hold partition {partition} of {self.name!r}")
        seen = self._seen.get(partition, log)
        if (log.topic_id, log.incarnation_id) != (seen.topic_id, seen.incarnation_id):
            raise QueryError(f"topic {self.name!r} was replaced while it was read")
        return log, work(connection, log)
