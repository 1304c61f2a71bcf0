"""A data folder with a bit of everything, kept in tests/fixtures as each schema version wrote it.

    PYTHONPATH=tests:. .venv/bin/python -m storage.fixture tests/fixtures/schema-N.tar.xz

makes one with the current code; it is run once, before the schema changes. `kept` says what is in it, so
that the test of upgrades and the writing of the fixture cannot disagree. The folder is as SIGKILL leaves it:
the last records are in a write-ahead log.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NoReturn

from storage.support import sqlite_engine
from takhin.model import CommittedOffset, Header
from takhin.testing.contract import NOW, Stored, batch, clock, name_of, numbered, spec

TOPIC = "orders"
TRIMMED = 100
COMMITTED = {"billing": CommittedOffset(1_500, "halfway", NOW), "audit": CommittedOffset(0, "", NOW)}
TIMES = range(NOW, NOW + 3_000)
HEADERS = [Header("trace", b"\x00\xff"), Header("trace", b"")]
LAST = (b"", None, "größer".encode(), b"\x80")
"""Values of the last records of partition 0: empty, none, text, bytes."""


def kept() -> dict[int, list[Stored]]:
    """The records that the folder holds, by partition."""
    rows: list[Stored] = [(n, NOW + n, None, b"%d" % n, ()) for n in range(TRIMMED, 3_000)]
    last = [(3_000 + n, NOW, b"key", value, ()) for n, value in enumerate(LAST)]
    last[-1] = (*last[-1][:4], tuple(map(tuple, HEADERS)))
    return {0: rows + last, 1: [(n, NOW, None, b"%d" % n, ()) for n in range(10)], 2: []}


async def fill(data: Path) -> NoReturn:
    """Make the folder and end the process without closing it."""
    engine = sqlite_engine(data)
    await engine.open()
    partitions = (await engine.create_topic(spec(TOPIC, 3))).partitions
    for first in range(0, 3_000, 500):
        values = [b"%d" % n for n in range(first, first + 500)]
        await partitions[0].append(batch(*values, timestamps=TIMES[first : first + 500]))
    for group_id, committed in COMMITTED.items():
        await engine.offsets.commit(group_id, {name_of(partitions[0]): committed})
    await partitions[0].trim(TRIMMED)
    await partitions[0].append(batch(*LAST, keys=[b"key"] * len(LAST), headers={len(LAST) - 1: HEADERS}))
    await partitions[1].append(numbered(10))
    os._exit(0)


def main(archive: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        if (child := os.fork()) == 0:
            asyncio.run(fill(data))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with tarfile.open(archive, "w:xz") as tar:
            for path in sorted((data / "topics").rglob("*")):
                if not path.name.endswith("-shm"):
                    tar.add(path, path.relative_to(data), recursive=False)


if __name__ == "__main__":
    assert clock() == NOW
    main(Path(sys.argv[1]))
