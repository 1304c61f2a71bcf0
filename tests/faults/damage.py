"""A data folder as SIGKILL left it, ways to damage it, and the effect of that on an engine.

python damage.py DATA SEED      (tests/ on the path) makes the folder and ends without closing it
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

from takhin.schema import PAGE_BYTES

from faults.pages import pages_of, zero
from storage.support import freeze, sqlite_engine
from takhin.errors import PartitionUnavailableError, StartupError
from takhin.model import CommittedOffset, Header
from takhin.testing.contract import ALL, NOW, as_stored, batch, name_of, spec

SETTINGS = {"checkpoint_pages": 40, "ballast_bytes": 0, "free_bytes_low": 0, "strict": True}
TOPIC, PARTITIONS, BATCHES, RECORDS = "t", 2, 60, 50
LONG = 10
"""A batch has a value with overflow pages, and one of zeros, once in this many batches."""
GROUPS = 5
"""A partition's consumer commits once in this many batches."""


def sent(partition: int, number: int):
    """The batch with that number, which is the same every time."""
    chance = random.Random(f"{partition} {number}")
    values = [chance.randbytes(chance.randrange(360)) for _ in range(RECORDS)]
    if number % LONG == 0:
        values[0] = chance.randbytes(40_000)
        values[1] = bytes(40_000)
    keys = [b"key %d" % chance.randrange(9) for _ in values]
    return batch(*values, keys=keys, headers={0: [Header("h", chance.randbytes(20))]})


async def fill(data: Path) -> NoReturn:
    """Produce; the first part is then in the `.db` files, the rest in the write-ahead logs."""
    engine = sqlite_engine(data, **SETTINGS)
    await engine.open()
    topic = await engine.create_topic(spec(TOPIC, PARTITIONS))
    for number in range(BATCHES):
        for log in topic.partitions:
            await log.append(sent(log.partition, number))
            if number % GROUPS == 0:
                await engine.offsets.commit("group", {name_of(log): CommittedOffset(log.end_offset, "", NOW)})
        if number == BATCHES - 8:  # everything from now on stays in the WAL
            await freeze(engine)
    os._exit(0)


class Outcome(StrEnum):
    """The outcome of starting on a damaged folder and reading all of it."""

    INTACT = "intact"
    REFUSED = "refused"
    ERROR = "an error on reading"
    SILENT = "silently short or wrong"


async def outcome(data: Path) -> tuple[Outcome, str]:
    """Start an engine and read everything. An error that is not in the contract is raised."""
    engine = sqlite_engine(data, **SETTINGS)
    try:
        await engine.open()
    except StartupError as error:
        return Outcome.REFUSED, str(error)
    worst = Outcome.INTACT, ""
    try:
        for log in engine.topics[TOPIC].partitions:
            try:
                different = await differs(log, engine.offsets)
            except PartitionUnavailableError as error:
                worst = Outcome.ERROR, str(error)
            else:
                if different:
                    return Outcome.SILENT, different
    finally:
        await engine.close()
    return worst


async def differs(log, offsets) -> str:
    """How the log differs from what was acknowledged; empty if it does not."""
    if (log.start_offset, log.end_offset) != (0, BATCHES * RECORDS):
        return f"partition {log.partition} reaches from {log.start_offset} to {log.end_offset}"
    committed = offsets.of("group").get(name_of(log))
    if committed is None or committed.offset != (BATCHES - GROUPS) * RECORDS + RECORDS:
        return f"partition {log.partition} has committed {committed}"
    wanted = expected(log.partition)
    offset = 0
    while offset < log.end_offset:
        page = as_stored(await log.read(offset, **(ALL | {"max_records": 7})))
        if not page or page != wanted[offset : offset + len(page)]:
            return f"partition {log.partition} holds something else at {offset} than was sent: {page[:1]}"
        offset += len(page)
    return ""


def expected(partition: int):
    rows = []
    for number in range(BATCHES):
        of = sent(partition, number)
        for n, value in enumerate(of.values):
            headers = tuple(map(tuple, of.headers.get(n, ())))
            rows.append((len(rows), NOW, of.keys[n], value, headers))
    return rows


def flip_in_db(folder: Path, chance: random.Random) -> str:
    return _flip(folder / "0.db", chance)


def flip_in_wal(folder: Path, chance: random.Random) -> str:
    return _flip(folder / "0.db-wal", chance)


def cut_db(folder: Path, chance: random.Random) -> str:
    return _cut(folder / "0.db", chance)


def cut_wal(folder: Path, chance: random.Random) -> str:
    return _cut(folder / "0.db-wal", chance)


def remove_wal(folder: Path, chance: random.Random) -> str:
    path = folder / f"{chance.randrange(PARTITIONS)}.db-wal"
    path.unlink()
    return f"{path.name} removed"


def zero_in_db(folder: Path, chance: random.Random) -> str:
    """A page of zeros, which is what a lost write into a hole leaves; the checksum of zeros is zero."""
    path = folder / "0.db"
    page = chance.randrange(path.stat().st_size // PAGE_BYTES)
    zero(path, page + 1)
    return f"{path.name}: page {page + 1} zeroed"


def zero_last_page(folder: Path, chance: random.Random) -> str:
    """The last overflow page of a value, whose content may be anything, as far as SQLite knows."""
    path = folder / "0.db"
    last = [page.number for page in pages_of(path) if page.kind == "last"]
    content = path.read_bytes()
    page = chance.choice([n for n in last if any(content[(n - 1) * PAGE_BYTES : n * PAGE_BYTES])])
    zero(path, page)
    return f"{path.name}: overflow page {page} zeroed"


DAMAGES: list[Callable[[Path, random.Random], str]] = [
    flip_in_db,
    flip_in_wal,
    cut_db,
    cut_wal,
    remove_wal,
    zero_in_db,
    zero_last_page,
]


def _flip(path: Path, chance: random.Random) -> str:
    content = bytearray(path.read_bytes())
    at, bit = chance.randrange(len(content)), chance.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"{path.name}: bit {bit} of byte {at}"


def _cut(path: Path, chance: random.Random) -> str:
    """A length to cut a file to: any, or the end of a page, a frame or a file system's block."""
    size = path.stat().st_size
    grain = chance.choice([1, 512, 4_096, 16 << 10])
    cut = chance.randrange(size) // grain * grain
    os.truncate(path, cut)
    return f"{path.name}: cut from {size} to {cut}"


if __name__ == "__main__":
    asyncio.run(fill(Path(sys.argv[1])))
