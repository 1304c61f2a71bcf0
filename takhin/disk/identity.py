"""What a partition's file says of itself: whose log it is, how far it reaches, what its topic is.

Engine, copies and queries read the tables `log` and `topic` here, and compare them with the place of the file
here. They raise errors of their own.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import apsw

from takhin.disk import statements as sql
from takhin.disk.witness import Mark
from takhin.sentences import shown


@dataclass(frozen=True, slots=True)
class LogRow:
    """The row of the table `log`. Files of schema version 1 do not count commits: theirs are 0."""

    topic: str
    partition: int
    topic_id: str
    incarnation_id: str
    start_offset: int
    end_offset: int
    commits: int

    @property
    def mark(self) -> Mark:
        return Mark(self.commits, self.end_offset)


def read_log_row(connection: apsw.Connection) -> LogRow | None:
    """The file's row of the table `log`; None if it is missing. Raises apsw.Error."""
    row = connection.execute(sql.GET_LOG).fetchone()
    if row is None:
        return None
    names = [name for (name,) in connection.execute(sql.LOG_COLUMNS)]
    found = dict(zip(names, row, strict=True))
    return LogRow(**{name: found.get(name, 0) for name in LogRow.__slots__})


def identity_fault(log: LogRow | None, topic: str, partition: int) -> str | None:
    """Why a file cannot be this partition's, as a clause that follows its path; None if it can."""
    if log is None:
        return "does not say whose log it is: its table log is empty"
    if (log.topic, log.partition) != (topic, partition):
        return (
            f"is misplaced: it holds partition {log.partition} of topic {log.topic!r}, "
            f"not partition {partition} of topic {topic!r}"
        )
    if not is_possible(log):
        return (
            f"says what no broker has written: topic id {shown(str(log.topic_id))}, "
            f"offsets {log.start_offset} to {log.end_offset}, {log.commits} commits"
        )
    return None


def is_possible(log: LogRow) -> bool:
    """False for a row that no broker has written."""
    numbers = (log.start_offset, log.end_offset, log.commits)
    texts = (log.topic_id, log.incarnation_id)
    if not all(isinstance(each, int) for each in numbers) or not all(isinstance(each, str) for each in texts):
        return False  # a file from elsewhere: in a STRICT table of ours each value is of its column's type
    try:
        uuid.UUID(log.topic_id)
    except ValueError:
        return False
    return 0 <= log.start_offset <= log.end_offset and log.commits >= 0


def num_partitions(connection: apsw.Connection) -> int | None:
    """The partition count of the topic, which only partition 0's file has; None in others."""
    found: int | None = connection.execute(sql.GET_NUM_PARTITIONS).get
    return found
