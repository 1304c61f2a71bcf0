"""What must be found after a crash of crash_workload.py: its notes say what was asked and acknowledged."""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from faults.crash_workload import (
    ALTERED_MS,
    ALTERED_PARTITIONS,
    KEYS,
    PARTITIONS,
    RETENTION_RECORDS,
    SERIAL_BASE,
    key,
    sent,
    value,
)
from storage.check_files import FAULTS
from storage.support import sqlite_engine
from takhin.errors import StartupError, TakhinError
from takhin.testing.contract import batch, name_of, read_all

Log = tuple[str, int, int]
"""Topic, serial number of its creation, partition."""


@dataclass
class Facts:
    """What was asked of the engine so far, and what it has acknowledged."""

    ends: dict[Log, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0]))
    """Where each log may end; the first is the acknowledged end."""
    sent: dict[Log, tuple[int, int]] = field(default_factory=dict)
    """The offsets [first, end) of the last batch that each log's producer has sent or is sending."""
    commits: dict[Log, list[int | None]] = field(default_factory=lambda: defaultdict(lambda: [None]))
    starts: dict[Log, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0]))
    """Where each log may start; the first is the acknowledged start."""
    compacted: dict[Log, int] = field(default_factory=lambda: defaultdict(int))
    """Where each log ended when it was last compacted."""
    topics: dict[str, list[int | None]] = field(default_factory=lambda: defaultdict(lambda: [None]))
    """The serial numbers that each name may have, None if it may be absent; the first is acknowledged."""
    altered: dict[tuple[str, int], list[bool]] = field(default_factory=lambda: defaultdict(lambda: [False]))
    """By name and serial number, whether the topic was altered; the first is acknowledged."""
    acked: int = 0
    """The number of appends acknowledged."""

    def after(self, what: tuple) -> None:
        """Take one more note into account."""
        kind, of, at = what
        if kind == "append":
            self.sent[of] = (self.ends[of][0], at)
        match kind:
            case "append" | "commit" | "trim" | "alter":
                self._of(kind)[of].append(at)
            case "trimmed":
                self.starts[of] = [max(at, self.starts[of][0])]
            case "appended" | "committed" | "altered":
                self._of(kind)[of] = [at]
                self.acked += kind == "appended"
            case "compact":
                self.compacted[of] = at
            case "create":
                self.topics[of].append(at)
            case "delete":
                self.topics[of].append(None)
            case "created":
                self.topics[of] = [at]
            case "deleted":
                self.topics[of] = [None]

    def may_start(self, of: Log, start: int) -> bool:
        """True if a log may start there: after a trim, or after any step of retention."""
        if start in self.starts[of] or start == max(self.starts[of]):
            return True
        retained = RETENTION_RECORDS.get(of[0])
        most = -1 if retained is None else max(*self.starts[of], max(self.ends[of]) - retained)
        return self.starts[of][0] <= start <= most

    def _of(self, kind: str):
        of_kinds = {"append": self.ends, "commit": self.commits, "trim": self.starts, "alter": self.altered}
        return next(found for begin, found in of_kinds.items() if kind.startswith(begin))


async def faults_of(data: Path, facts: Facts) -> list[str]:
    """Start an engine on what a crash left; returns a sentence for each broken promise."""
    engine = sqlite_engine(data, ballast_bytes=0, free_bytes_low=0, strict=True)
    try:
        await engine.open()
    except StartupError as error:
        return [f"refused: {error}"]
    found = [(log, log.start_offset) for topic in engine.topics.values() for log in topic.partitions]
    starts = {name_of(log): start for log, start in found}  # before retention goes on
    faults = []
    try:
        await engine.retain()
        for name, serials in facts.topics.items():
            topic = engine.topics.get(name)
            serial = topic.config.max_message_bytes - SERIAL_BASE if topic else None
            if serial not in serials:
                faults.append(f"topic {name}: {serial} is there instead of {serials}")
            elif topic is not None:
                faults += _faults_of_shape(topic, facts.altered[name, serial])
                for log in topic.partitions:
                    if not facts.may_start((name, serial, log.partition), starts[name_of(log)]):
                        faults.append(f"{name_of(log)} starts at {starts[name_of(log)]}")
                    faults += await _faults_of_log(log, serial, facts, engine.offsets)
        faults += [f"topic {name} out of nowhere" for name in engine.topics if name not in facts.topics]
    except TakhinError as error:
        faults.append(f"cannot be used: {error}")
    finally:
        await engine.close()
    return faults + _faults_of_files(data)


def _faults_of_shape(topic, may_be_altered: list[bool]) -> list[str]:
    """A topic has all of an alteration or nothing."""
    shape = len(topic.partitions), topic.config.delete_retention_ms == ALTERED_MS
    expected = {True: (ALTERED_PARTITIONS, True), False: (PARTITIONS[topic.name], False)}
    if shape in [expected[altered] for altered in may_be_altered]:
        return []
    return [f"topic {topic.name}: {shape} (partitions, config altered); altered: {may_be_altered}"]


async def _faults_of_log(log, serial: int, facts: Facts, offsets) -> list[str]:
    of: Log = (log.topic, serial, log.partition)
    faults = []
    if log.end_offset not in facts.ends[of]:
        faults.append(f"{of} ends at {log.end_offset} instead of {facts.ends[of]}")
    if not facts.may_start(of, log.start_offset):
        faults.append(f"{of} starts at {log.start_offset} instead of {facts.starts[of]}")
    found = {row[0]: (row[2], row[3]) for row in await read_all(log)}
    needed = {
        offset for offset in range(log.start_offset, log.end_offset) if offset + KEYS >= facts.compacted[of]
    }
    if missing := needed - found.keys():
        faults.append(f"{of} lacks {sorted(missing)}, which nothing supersedes")
    if any(content != (key(offset), value(*of, offset)) for offset, content in found.items()):
        faults.append(f"{of} holds something else than was sent")
    if log.record_count != len(found):
        faults.append(f"{of} has {len(found)} records, and says {log.record_count}")
    committed = offsets.of("group").get(name_of(log))
    if (committed and committed.offset) not in facts.commits[of]:
        faults.append(f"{of} committed {committed} instead of {facts.commits[of]}")
    if committed and committed.offset > log.end_offset:
        faults.append(f"{of} committed {committed.offset} behind its end {log.end_offset}")
    if of in facts.sent:
        faults += await _faults_of_a_repeat(log, of, *facts.sent[of])
    if (appended := await log.append(batch(b"next"))).offset != log.end_offset - 1:
        faults.append(f"{of} goes on at {appended.offset}")
    return faults


async def _faults_of_a_repeat(log, of: Log, first: int, end: int) -> list[str]:
    """Send the last batch again: whether or not it was stored before the crash, it must be there once."""
    stored = log.end_offset >= end
    made = await log.append(sent(of, first, end, b""))  # as another program would that reads the same input
    if (made.offset, made.duplicate, log.end_offset) != (-1 if stored else first, stored, end):
        return [f"{of}: {first} to {end} made again {'after all' if stored else ''} is at {made.offset}"]
    again = await log.append(sent(of, first, end))
    if (again.offset, again.duplicate, log.end_offset) != (first if stored else -1, True, end):
        return [f"{of}: {first} to {end} sent again {'after all' if stored else ''} is at {again.offset}"]
    found = [(row[0], row[3]) for row in await read_all(log) if row[0] >= first]
    expected = [(offset, value(*of, offset)) for offset in range(max(first, log.start_offset), end)]
    return [] if found == expected else [f"{of}: what was sent again is not there once"]


def _faults_of_files(data: Path) -> list[str]:
    """What check_files.py would find; it may run in this process, because only apsw opens the files here."""
    faults = [f"{path} was left" for path in data.glob("topics/*/*") if path.suffix != ".db"]
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    for path in sorted(data.glob("topics/*/*.db")):
        names = {"topic": path.parent.name, "partition": int(path.stem)}
        with closing(apsw.Connection(f"{path.as_uri()}?immutable=1", flags=flags)) as db:
            try:
                for fault, query in FAULTS.items():
                    if rows := db.execute(query, names if ":" in query else {}).fetchall():
                        faults.append(f"{path}: {fault}: {rows[:3]}")
            except apsw.Error as error:  # a page with another checksum, for one
                faults.append(f"{path}: {error}")
    return faults
