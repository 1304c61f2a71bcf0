"""An engine at work while everything that it does to its folder is recorded.

    python crash_workload.py DATA SEED SYNCHRONOUS OUT     (tests/ on the path)

It writes the events, pickled, to OUT. SYNCHRONOUS is SQLite's: 2 is the broker's own, 1 and 0 are for
controls. Words in its place are other controls: with `names` the broker syncs no folder, with `apart` it
remembers a producer's batch and its source in a transaction of its own.
"""

from __future__ import annotations

import asyncio
import pickle
import random
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from faults.recorder import Event, Recorder
from storage.support import sqlite_engine
from takhin.disk import connection, folder
from takhin.disk import statements as sql
from takhin.model import NO_LIMIT, Batch, CommittedOffset, Source, TopicConfig
from takhin.storage.conditions import BATCHES_REMEMBERED
from takhin.storage.sqlite.group import Draft
from takhin.storage.sqlite.writes import SmallWrite
from takhin.testing.contract import NOW, batch, name_of, spec, under

SETTINGS = {"open_partitions_max": 2, "checkpoint_pages": 6, "ballast_bytes": 0, "free_bytes_low": 0}
"""Fewer open files than partitions in use, so that files are closed and opened all the time."""

KEPT, BRIEF = "kept", ("one", "two")
PARTITIONS = {KEPT: 3, BRIEF[0]: 2, BRIEF[1]: 2}
ALTERED_PARTITIONS, ALTERED_MS = 4, 1
"""How many partitions an altered topic has, and its delete.retention.ms: both, or what was before."""
RETENTION_RECORDS = {KEPT: 25}
"""Topics whose logs lose all but so many of their records, whenever the engine comes to it."""
SERIAL_BASE = 1 << 20
"""A topic's max.message.bytes minus this is the serial number of its creation, as names are reused."""
BATCHES = 25
KEYS = 7
RECORDS_MAX, RECORD_BYTES_MAX = 5, 6_000


@cache
def value(name: str, serial: int, partition: int, offset: int) -> bytes:
    """The value at an offset, of any length, computed so that nobody has to keep it."""
    label = b"%s %d %d %d " % (name.encode(), serial, partition, offset)
    chance = random.Random(label)
    return label + chance.randbytes(chance.randrange(RECORD_BYTES_MAX))


def key(offset: int) -> bytes:
    """The key at an offset: one of a few, so that later records supersede earlier ones."""
    return b"%d" % (offset % KEYS)


PRODUCER = b"of each log one."


def sent(of: tuple[str, int, int], first: int, end: int, producer_id: bytes = PRODUCER) -> Batch:
    """The only producer's batch at offsets [first, end) of a log; its sequence is the first offset.

    It was made of the record at that offset of an input. Without a producer only the source tells a repeat.
    """
    offsets = range(first, end)
    values, keys = [value(*of, offset) for offset in offsets], [key(offset) for offset in offsets]
    return under(batch(*values, keys=keys), producer_id, first if producer_id else 0, source=source_at(first))


def source_at(offset: int) -> Source:
    return Source("group", "in", 0, offset, "of the input")


class Workload:
    def __init__(self, engine, recorder: Recorder, seed: int) -> None:
        self._engine = engine
        self._note = recorder.note
        self._chance = random.Random(seed)

    async def run(self) -> None:
        logs = await self._create(KEPT, 0)
        await asyncio.gather(*(self._use(log, 0) for log in logs), self._catalogue())

    async def _catalogue(self) -> None:
        """Create, use and delete topics, and reuse their names."""
        for serial in range(1, 9):
            name = self._chance.choice(BRIEF)
            logs = await self._create(name, serial)
            if self._chance.random() < 0.7:
                logs = await self._alter(name, serial)
            for log in logs:
                await self._append(log, serial)
            self._note("delete", name, serial)
            await self._engine.delete_topic(name)
            self._note("deleted", name, serial)

    async def _create(self, name: str, serial: int):
        self._note("create", name, serial)
        config = TopicConfig(SERIAL_BASE + serial, retention_records=RETENTION_RECORDS.get(name, NO_LIMIT))
        topic = await self._engine.create_topic(spec(name, PARTITIONS[name], config))
        self._note("created", name, serial)
        return topic.partitions

    async def _alter(self, name: str, serial: int):
        """Give a topic another config and more partitions."""
        self._note("alter", (name, serial), True)
        topic = await self._engine.alter_topic(
            name,
            lambda topic: spec(
                name, ALTERED_PARTITIONS, replace(topic.config, delete_retention_ms=ALTERED_MS)
            ),
        )
        self._note("altered", (name, serial), True)
        return topic.partitions

    async def _use(self, log, serial: int) -> None:
        for _ in range(BATCHES):
            await self._append(log, serial)
            what = self._chance.random()
            if what < 0.3:
                await self._commit_offset(log, serial)
            elif what < 0.4:
                await self._trim(log, serial)
            elif what < 0.6:
                await self._retain(log, serial)
            elif what < 0.7:
                await self._compact(log, serial)

    async def _append(self, log, serial: int) -> None:
        of = (log.topic, serial, log.partition)
        first = log.end_offset
        end = first + self._chance.randint(1, RECORDS_MAX)
        self._note("append", of, end)
        await self._send(log, of, first, end)
        self._note("appended", of, end)

    async def _send(self, log, of: tuple[str, int, int], first: int, end: int) -> None:
        await log.append(sent(of, first, end))

    async def _commit_offset(self, log, serial: int) -> None:
        of = (log.topic, serial, log.partition)
        offset = log.end_offset - self._chance.randint(0, 1)
        self._note("commit", of, offset)
        await self._engine.offsets.commit("group", {name_of(log): CommittedOffset(offset, "", NOW)})
        self._note("committed", of, offset)

    async def _trim(self, log, serial: int) -> None:
        of = (log.topic, serial, log.partition)
        offset = self._chance.randint(log.start_offset, log.end_offset)
        self._note("trim", of, offset)
        await log.trim(offset)
        self._note("trimmed", of, offset)

    async def _compact(self, log, serial: int) -> None:
        of = (log.topic, serial, log.partition)
        self._note("compact", of, log.end_offset)
        await log.compact(TopicConfig(1), NOW)

    async def _retain(self, log, serial: int) -> None:
        """Let retention remove what is too much; of this log at least what was too much before."""
        of = (log.topic, serial, log.partition)
        offset = log.start_offset + max(0, log.record_count - RETENTION_RECORDS[log.topic])
        await self._engine.retain()
        self._note("trimmed", of, offset)


@dataclass(frozen=True, slots=True)
class Remember(SmallWrite):
    """A write that remembers a producer's batch and its source, whatever was appended."""

    row: tuple[bytes, int, int, int, int, int]
    source: Source

    def apply(self, draft: Draft) -> None:
        draft.db.execute(sql.PUT_PRODUCER_BATCH, self.row)
        draft.senders.sources.take(self.source, is_new=draft.senders.sources.taken(self.source) is None)


class Apart(Workload):
    """A control that appends a batch and remembers it in the next transaction."""

    def __init__(self, engine, recorder: Recorder, seed: int) -> None:
        super().__init__(engine, recorder, seed)
        self._batches = Counter()

    async def _send(self, log, of: tuple[str, int, int], first: int, end: int) -> None:
        await log.append(replace(sent(of, first, end), condition=None))
        row = (PRODUCER, first, end - first, first, NOW, self._batches[of] % BATCHES_REMEMBERED)
        self._batches[of] += 1
        await log.life.submit(Remember(row, source_at(first)))


def weaken(synchronous: int) -> None:
    """Make every writing connection sync less than the broker's own do."""
    open_writer = connection.open_writer

    def careless(path):
        opened = open_writer(path)
        opened.pragma("synchronous", synchronous)
        return opened

    connection.open_writer = careless


async def main(data: Path, seed: int, workload: type[Workload]) -> list[Event]:
    recorder = Recorder(data)
    recorder.start()
    engine = sqlite_engine(data, **SETTINGS)
    await engine.open()
    await workload(engine, recorder, seed).run()
    await engine.close()
    return recorder.events


if __name__ == "__main__":
    workload = Workload
    if sys.argv[3] == "names":
        folder.sync_folder = lambda path: None
    elif sys.argv[3] == "apart":
        workload = Apart
    elif sys.argv[3] != "2":
        weaken(int(sys.argv[3]))
    recorded = asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), workload))
    Path(sys.argv[4]).write_bytes(pickle.dumps(recorded))
