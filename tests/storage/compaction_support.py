"""What the tests of compaction share: logs that are compacted, and what a pass leaves of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from storage.support import Store
from takhin import topic_configs
from takhin.copies.verify import verify
from takhin.model import CleanupPolicy, Header
from takhin.testing.contract import Stored, batch, spec

HOUR = 3_600_000


COMPACT = replace(topic_configs.DEFAULTS, cleanup_policy=(CleanupPolicy.COMPACT,), delete_retention_ms=HOUR)


async def filled(store, name="t", records=100, keys=7):
    """The log of a new topic with `records` records, each a commit group, of `keys` keys in turn."""
    log = (await store.engine.create_topic(spec(name, config=COMPACT))).partitions[0]
    for n in range(records):
        headers = {0: [Header("n", b"%d" % n)]}
        await log.append(batch(b"%d" % n, keys=[b"%d" % (n % keys)], headers=headers))
    return log


def last_of_each(rows: Sequence[Stored]) -> dict[bytes, bytes]:
    """What a fresh reader makes of a log."""
    state: dict[bytes, bytes] = {}
    for _, _, key, value, _ in rows:
        if key is not None and value is not None:
            state[key] = value
        elif key is not None:
            state.pop(key, None)
    return state


def expected(rows: Sequence[Stored], *, last_group: int, tombstones_below: int = 0) -> list[Stored]:
    """What one pass leaves of these records."""
    last = {row[2]: row[0] for row in rows}
    return [
        row
        for row in rows
        if row[0] >= last_group
        or (
            (row[2] is not None and last[row[2]] == row[0])
            and (row[3] is not None or row[0] >= tombstones_below)
        )
    ]


def path_of(store: Store) -> Path:
    return store.data_dir / "topics" / "t" / "0.db"


def faults(store: Store) -> list[str]:
    return [fault for of in verify(store.data_dir).partitions for fault in of.faults]
