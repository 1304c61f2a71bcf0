"""Damage of any page of any table: recover ends with a log that starts and has every readable record."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from takhin.schema.checksums import load

from copies.folders import PAGE, TOPIC, content, file, in_child
from storage.support import sqlite_engine
from takhin.copies.recover import Recovered, recover
from takhin.copies.verify import verify
from takhin.model import CommittedOffset, Header
from takhin.testing.contract import NOW, batch, name_of, spec, under

RECORDS, TRIMMED, GROUPS = 2_400, 150, 400
TABLE_PAGES = range(1, 15)
"""The header with the schema, the page that says what each page is for, and the roots of all tables."""


def value(number: int) -> bytes:
    """Bytes that identify their record wherever they are cut; a few are larger than three pages."""
    name = b"<%d>" % number
    return name * ((60_000 if number % 100 == 7 else 100 + number * 7 % 900) // len(name))


def headers(number: int) -> list[Header]:
    return [Header("of", b"{%d}" % number)] if number % 10 == 0 else []


async def fill(data: Path) -> None:
    engine = sqlite_engine(data)
    await engine.open()
    log = (await engine.create_topic(spec(TOPIC))).partitions[0]
    for first in range(0, RECORDS, 40):
        of_batch = {n: headers(first + n) for n in range(40) if headers(first + n)}
        records = batch(*(value(first + n) for n in range(40)), headers=of_batch)
        producer = b"p%d" % (first // 40 % 7)
        await log.append(under(records, producer, first // 40 // 7 * 40))
    for number in range(GROUPS):
        committed = CommittedOffset(number * 5, "m" * 40, NOW)
        await engine.offsets.commit(f"group-{number}", {name_of(log): committed})
    await log.trim(TRIMMED)
    await engine.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damages") / "data"
    assert in_child(lambda: asyncio.run(fill(folder))) == 0
    return folder


def pages_of(path: Path) -> list[bytes]:
    stored = path.read_bytes()
    return [stored[at : at + PAGE] for at in range(0, len(stored), PAGE)]


Damage = Callable[[bytes, random.Random], bytes]


def flipped(page: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(PAGE)
    return page[:at] + bytes([page[at] ^ 1 << chance.randrange(8)]) + page[at + 1 :]


def overwritten(page: bytes, chance: random.Random) -> bytes:
    """A sector of something else."""
    at = chance.randrange(PAGE // 512) * 512
    return page[:at] + chance.randbytes(512) + page[at + 512 :]


def zeroed(_page: bytes, _chance: random.Random) -> bytes:
    return bytes(PAGE)


def foreign(_page: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(PAGE)


def of_another_type(page: bytes, chance: random.Random) -> bytes:
    """A page that begins like one of another kind, which only its checksum shows."""
    return bytes([chance.choice([2, 5, 10, 13])]) + page[1:]


DAMAGES: tuple[Damage, ...] = (flipped, overwritten, zeroed, foreign, of_another_type)


def chosen(pages: list[bytes], number: int, chance: random.Random) -> list[int]:
    """The indexes of the pages to damage: of each table in turn, pages that lead to others, any page."""
    inner = [at for at, page in enumerate(pages) if at and page[0] in (2, 5)]
    kinds = [
        [TABLE_PAGES[number % len(TABLE_PAGES)] - 1],
        [chance.choice(inner)],
        [chance.randrange(len(pages))],
        chance.sample(range(len(pages)), 3),
        [3, chance.choice(inner)],  # the log's row, and a page without which records have to be searched for
    ]
    return kinds[number // len(TABLE_PAGES) % len(kinds)] if number % 2 else kinds[number // 2 % len(kinds)]


def damage(path: Path, pages: list[bytes], number: int, chance: random.Random) -> set[int]:
    """Damage a closed file; returns which of its pages (from 0) are no longer as they were."""
    if number % 17 == 16:
        left = chance.randrange(1, len(pages) * PAGE)
        path.write_bytes(path.read_bytes()[:left])
        return set(range(left // PAGE, len(pages)))
    changed = list(pages)
    for at in chosen(pages, number, chance):
        changed[at] = DAMAGES[number % len(DAMAGES)](pages[at], chance)
    path.write_bytes(b"".join(changed))
    return {at for at in range(len(pages)) if changed[at] != pages[at]}


def whole_records(pages: list[bytes], damaged: set[int]) -> set[int]:
    """The records none of whose bytes are on a damaged page."""
    touched = {int(n) for at in damaged for n in re.findall(rb"<(\d+)>", pages[at])}
    return set(range(TRIMMED, RECORDS)) - touched


def read_to_the_end(path: Path) -> set[int]:
    """What one scan of the table gets: the control."""
    load()
    found = set()
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            for (offset,) in connection.execute(
                "SELECT offset FROM records WHERE length(value) ORDER BY offset"
            ):
                found.add(offset)
        finally:
            connection.close()
    except apsw.Error:
        pass
    return found


async def check(data: Path, expected: set[int], recovered: list[Recovered]) -> None:
    """The recovered log starts, is whole, and has what is expected; what it lacks was reported."""
    assert verify(data).ok
    rows = {row[0]: row for row in (await content(data))[TOPIC][0]}
    assert expected <= rows.keys(), sorted(expected - rows.keys())
    for offset, _, _, stored, of_record in rows.values():
        assert stored == value(offset)
        if not any("headers" in note for one in recovered for note in one.lost_besides):
            assert list(of_record) == headers(offset)
    reported = {offset for one in recovered for run in one.lost for offset in range(*run)}
    assert set(range(TRIMMED, RECORDS)) - rows.keys() <= reported
    assert not reported & rows.keys()


@pytest.mark.parametrize(
    "count", [13, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])]
)
async def test_every_readable_record_is_kept(whole, tmp_path, count, figures):
    """Any damage: no traceback, every record off the damaged pages is kept, what is lost is reported."""
    pages = pages_of(file(whole))
    chance = random.Random(15)
    told: Counter[str] = Counter()
    for number in range(count):
        data = tmp_path / "data"
        shutil.copytree(whole, data)
        damaged = damage(file(data), pages, number, chance)
        expected = whole_records(pages, damaged)
        scanned = read_to_the_end(file(data))
        try:
            recovered = recover(data)
            await check(data, expected, recovered)
        except Exception as error:
            error.add_note(f"damage {number}: pages {sorted(at + 1 for at in damaged)}")
            raise
        told["recovered" if recovered else "nothing to do"] += 1
        told["a plain scan misses records"] += not expected <= scanned
        told["kept all"] += expected == set(range(TRIMMED, RECORDS))
        shutil.rmtree(data)
    assert told["a plain scan misses records"] > count // 8  # the control
    figures(f"recover after {count} damages: no record lost that can be read; {dict(told)}")
