"""What must be true of an engine after a storm, judged by what its callers were told.

- Acked ⊆ found: what was acknowledged or served is found at its offset, unless somebody asked to trim it.
- Offsets are dense, and none is given twice.
- Every record found was sent to its log, and is there once.
- A group's committed offset is at least the last acknowledged one, unless somebody asked to forget it.
- Under `held` no `.db` file changes, and no write-ahead log is restarted or cut.

Knows the engine only by its contract.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import children
from takhin.model import Appended, Records
from takhin.storage.contract import Engine, PartitionLog
from takhin.testing.contract import name_of, read_all

LOOK = """
import hashlib, json, pathlib, sys
seen = {}
for path in sorted(pathlib.Path(sys.argv[1]).glob("topics/*/*")):
    if path.name.endswith((".db", "-wal")):
        content = path.read_bytes()
        what = hashlib.sha256(content).hexdigest() if path.suffix == ".db" else content[:32].hex()
        seen["/".join(path.parts[-2:])] = len(content), what
print(json.dumps(seen))
"""
"""The 32 bytes are the header of a write-ahead log, with salts that change when SQLite restarts it."""

WAL_HEADER_BYTES = 32
"""A write-ahead log of this size holds nothing: the write of its first frame has failed. SQLite begins it
again, and whatever a copier has read of it until then, its copy is empty, too."""
Seen = Mapping[str, tuple[int, str]]
"""By file: its size, and a digest of a `.db` file or the header of a write-ahead log."""


async def looked_at(folder: Path) -> Seen:
    """What a child process sees of the files (opening them in this one would drop SQLite's locks)."""
    return json.loads(await children.run(sys.executable, "-I", "-S", "-c", LOOK, folder))


def changes_under_held(before: Seen, after: Seen) -> Iterator[str]:
    """A sentence for each file that a copier could not have copied whole between the two looks."""
    for name, (size, what) in before.items():
        if name not in after:
            yield f"under held {name} went away"
            continue
        size_after, what_after = after[name]
        if not name.endswith("-wal"):
            if what_after != what:
                yield f"under held {name} was changed"
        elif size_after < size or (size > WAL_HEADER_BYTES and what_after != what):
            yield f"under held {name} was restarted: {size}, {what}; then {size_after}, {what_after}"


def state_of(engine: Engine) -> object:
    """What must be the same after the engine is opened again: topics, ranges and committed offsets."""
    ranges = {
        (topic.name, topic.topic_id, topic.config): [
            (log.incarnation_id, log.start_offset, log.end_offset) for log in topic.partitions
        ]
        for topic in engine.topics.values()
    }
    return ranges, {group_id: dict(engine.offsets.of(group_id)) for group_id in engine.offsets.groups()}


class Ledger:
    """What callers have asked for and been told, by incarnation id; a deleted topic's logs are left alone."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        """A sentence for each promise that was broken."""
        self._sent: defaultdict[str, set[bytes]] = defaultdict(set)
        self._told: defaultdict[str, dict[int, bytes]] = defaultdict(dict)  # acknowledged or served
        self._trimmed: defaultdict[str, int] = defaultdict(int)
        self._committed: dict[tuple[str, str], int] = {}  # by group and incarnation id

    def sends(self, log: PartitionLog, values: Sequence[bytes]) -> None:
        self._sent[log.incarnation_id].update(values)

    def acked(self, log: PartitionLog, landed: Appended, values: Sequence[bytes]) -> None:
        if landed.record_count != len(values):
            self.faults.append(f"{landed} for {len(values)} records of {name_of(log)}")
        self._note(log, landed.offset, values)

    def served(self, log: PartitionLog, offset: int, page: Records) -> None:
        offsets = [row[0] for row in page.rows]
        if offsets != list(range(offset, page.next_offset)):
            self.faults.append(
                f"a read of {name_of(log)} at {offset} served {offsets}, then {page.next_offset}"
            )
        self._note(log, offset, [row[3] or b"" for row in page.rows])

    def _note(self, log: PartitionLog, first: int, values: Sequence[bytes]) -> None:
        told = self._told[log.incarnation_id]
        for offset, value in enumerate(values, first):
            if told.setdefault(offset, value) != value:
                self.faults.append(f"offset {offset} of {name_of(log)} was given twice")

    def trims(self, log: PartitionLog, offset: int) -> None:
        self._trimmed[log.incarnation_id] = max(self._trimmed[log.incarnation_id], offset)

    def committed(self, group_id: str, logs: Sequence[PartitionLog], number: int) -> None:
        """number: what the group has committed as metadata; each is higher than the one before."""
        for log in logs:
            self._committed[group_id, log.incarnation_id] = number

    def forgets(self, group_id: str) -> None:
        self._committed = {key: number for key, number in self._committed.items() if key[0] != group_id}

    async def faults_of_engine(self, engine: Engine) -> list[str]:
        """What contradicts it in an engine at rest."""
        logs = {log.incarnation_id: log for topic in engine.topics.values() for log in topic.partitions}
        faults = [fault for log in logs.values() for fault in await self._faults_of_log(log)]
        for (group_id, incarnation_id), number in self._committed.items():
            if (log := logs.get(incarnation_id)) is None:
                continue
            found = engine.offsets.of(group_id).get(name_of(log))
            if found is None or int(found.metadata) < number:
                faults.append(f"{group_id} has committed {number} in {name_of(log)}, and there is {found}")
        return faults

    async def _faults_of_log(self, log: PartitionLog) -> list[str]:
        name, start, end = name_of(log), log.start_offset, log.end_offset
        found = {row[0]: row[3] for row in await read_all(log)}
        told, values = self._told[log.incarnation_id], set(found.values())
        faults = []
        if list(found) != list(range(start, end)):
            faults.append(f"{name} is to hold {start} to {end}, and holds {list(found)}")
        if start > self._trimmed[log.incarnation_id]:
            faults.append(f"{name} begins at {start}, and nobody has asked for that")
        if lost := [offset for offset in told if offset >= start and found.get(offset) != told[offset]]:
            faults.append(f"{name} has lost what was acknowledged or served at {lost}")
        if len(values) < len(found) or not values <= self._sent[log.incarnation_id]:
            faults.append(f"{name} holds what was never sent to it, or something twice")
        return faults
